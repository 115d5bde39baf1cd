"""Sounds, labels and captions in one space: python -m lzn_jax.main --config=THIS_FILE."""

from lzn_jax import configuration


def get_config():
    """The config of digits_text with sounds in place of images."""
    types = {"types": ("sound", "label", "text"), "alignments": ("sound:label", "sound:text")}
    changes = {"study": None, **types, "data.name": "sounds", "sound.condition": "text"}
    config = configuration.sibling(__file__, "digits_text", changes)
    config.extensions, config.data.num_classes = ("sounds.py",), 8
    config.training.batch_size, config.training.num_steps = 128, 1200
    config.evaluation.every_steps = 1200
    return config
