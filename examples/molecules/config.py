"""A space without images: molecules as SMILES, and how many rings each has.

pip install -e '.[examples]'
python -m lzn_jax.main --config=examples/molecules/config.py
"""

import ml_collections

from lzn_jax import configuration


def get_config() -> ml_collections.ConfigDict:
    """The config of this experiment."""
    config = configuration.blank()
    config.extensions = ("molecules.py",)
    config.types = ("molecule", "label")
    config.alignments = ("molecule:label",)
    config.data.name = "nci"
    config.molecule = {"context_size": 2048}

    config.latent.dim = 32
    config.latent.solver = config.alignment.solver = "adams"
    config.latent.num_steps = config.alignment.num_steps = 10
    config.alignment.noise_scale = 0.45
    config.alignment.cutoff = 0.6

    config.training.batch_size = 128
    config.training.devices = "dividing"
    config.training.num_steps = 600
    config.training.learning_rate.molecule_decoder = 2e-3  # of the others: 1e-3
    config.training.warmup_steps = 50
    config.training.schedule = "cosine"
    config.training.ema_decay = 0.99
    config.training.log_every_steps = 10
    config.evaluation.every_steps = 300
    config.evaluation.batch_sizes = (1, 36, 350)
    config.evaluation.context_sizes = (1, 36, 2048)
    return config
