"""Digits with labels, trained by Muon.

python -m lzn_jax.main --config=examples/muon/config.py
"""

import ml_collections

from lzn_jax import configuration


def get_config() -> ml_collections.ConfigDict:
    """The config of digits_joint with another optimiser."""
    config = configuration.sibling(__file__, "digits_joint")
    config.extensions = ("muon.py",)
    config.training.optimizer = "muon"
    return config
