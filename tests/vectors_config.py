"""A config of vectors and labels from a blank one, which takes seconds."""

from lzn_jax import configuration


def get_config():
    config = configuration.blank()
    config.extensions = ("vectors.py",)
    config.types, config.alignments = ("vector", "label"), ("vector:label",)
    config.data.name, config.vector = "vectors", {"context_size": 12}
    config.latent.update(dim=4, solver="euler", num_steps=2)
    config.alignment.update(num_steps=2, cutoff=0.0)
    config.training.update(batch_size=8, num_steps=2, ema_decay=0.5, warmup_steps=1, devices=1)
    config.evaluation.update(every_steps=2, noise_scales=())
    return config
