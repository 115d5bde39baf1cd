"""A space without images: molecules as SMILES, and how many rings each has.

pip install -e '.[examples]'
python -m lzn_jax.main --config=examples/molecules/config.py
"""

import ml_collections

from lzn_jax import configuration


def get_config() -> ml_collections.ConfigDict:
    """The config of digits_joint with molecules in place of images."""
    types = {"types": ("molecule", "label"), "alignments": ("molecule:label",)}
    changes = {"study": None, **types, "data.name": "nci"}
    config = configuration.sibling(__file__, "digits_joint", changes)
    config.extensions = ("molecules.py",)
    config.molecule = {"context_size": 2048}

    rates = {"molecule_encoder": 1e-3, "molecule_decoder": 2e-3, "label_anchors": 1e-3}
    config.training.ema_decay = 0.99
    config.training.learning_rate = rates
    config.training.batch_size = 128
    config.training.num_steps = 600
    config.evaluation.every_steps = 300
    config.evaluation.num_samples = 100
    config.evaluation.batch_sizes = (1, 36, 350)
    config.evaluation.context_sizes = (1, 36, 2048)
    return config
