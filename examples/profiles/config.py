"""Profiles and labels of scikit-learn's digits in one space, without images.

python -m lzn_jax.main --config=examples/profiles/config.py
"""

import ml_collections

from lzn_jax import configuration


def get_config() -> ml_collections.ConfigDict:
    """The config of digits_joint with profiles in place of images."""
    types = {"types": ("profile", "label"), "alignments": ("profile:label",)}
    config = configuration.sibling(__file__, "digits_joint", {"study": None, **types})
    config.extensions = ("profiles.py",)
    config.profile = {"context_size": 1437}
    config.training.ema_decay = 0.99
    config.training.learning_rate.update(default=3e-3, label_anchors=1e-3)
    config.training.batch_size, config.training.num_steps = 128, 120
    return config
