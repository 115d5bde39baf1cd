"""A config of numbers and labels, which takes seconds: how much ink a digit has."""

from lzn_jax import configuration


def get_config():
    config = configuration.blank()
    config.extensions = ("../examples/property/property.py",)
    config.types = ("property", "label")
    config.alignments = ("property:label",)
    config.data.name = "digits"
    config.property = {"column": "ink", "context_size": 12, "features": 4}
    config.latent.update(dim=4, solver="euler", num_steps=2)
    config.alignment.update(num_steps=2, cutoff=0.0)
    config.training.update(batch_size=8, num_steps=2, ema_decay=0.5, warmup_steps=1)
    config.evaluation.update(every_steps=2, noise_scales=(), batch_sizes=(), context_sizes=())
    return config
