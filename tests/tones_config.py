"""A config of tones, labels and texts, which takes seconds."""

from lzn_jax import configuration


def get_config():
    config = configuration.blank()
    config.extensions = ("tones.py",)
    config.types, config.data.name = ("tone", "label", "text"), "tones"
    config.alignments = ("tone:label", "tone:text")
    config.data.num_classes = 2
    config.tone = {"context_size": 12, "condition": "label"}
    config.text.update(max_length=12, context_size=4, alphabet=" abcdefghijklmnopqrstuvwxyz")
    config.text_encoder.features = config.text_decoder.features = 8
    config.latent.update(dim=4, solver="euler", num_steps=2)
    config.alignment.update(num_steps=2, cutoff=0.0)
    config.training.update(batch_size=8, num_steps=2, ema_decay=0.5, warmup_steps=1, devices=1)
    config.evaluation.update(every_steps=2, noise_scales=())
    return config
