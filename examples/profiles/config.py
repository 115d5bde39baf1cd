"""Profiles and labels of scikit-learn's digits in one space, without images.

python -m lzn_jax.main --config=examples/profiles/config.py
"""

import ml_collections

from lzn_jax import configuration


def get_config() -> ml_collections.ConfigDict:
    """The config of digits_property with profiles and labels in place of images and slants."""
    config = configuration.sibling(__file__, "digits_property")
    config.extensions = ("profiles.py",)
    config.types, config.alignments = ("profile", "label"), ("profile:label",)
    del config.property, config.encoder, config.decoder, config.latent.context_size
    config.profile = {"context_size": 1437}
    config.training.learning_rate = {"label_anchors": 1e-3}
    config.training.batch_size, config.training.num_steps = 128, 120
    config.evaluation.batch_sizes = config.evaluation.context_sizes = ()
    del config.evaluation.num_samples, config.sampling
    return config
