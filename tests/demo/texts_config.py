"""A config of captions and labels of digits, without their images."""

from lzn_jax import configuration


def get_config():
    config = configuration.blank()
    config.types, config.alignments = ("text", "label"), ("text:label",)
    config.data.update(name="digits", captions=True)
    config.text.update(max_length=40, context_size=12)
    for network in (config.text_encoder, config.text_decoder):
        network.update(features=8, num_layers=1, num_heads=2)
    config.latent.update(dim=4, solver="euler", num_steps=2)
    config.alignment.update(num_steps=2, cutoff=0.0)
    config.training.update(batch_size=8, num_steps=2, ema_decay=0.5, warmup_steps=1)
    config.evaluation.update(every_steps=2, noise_scales=(), batch_sizes=(), context_sizes=())
    return config
