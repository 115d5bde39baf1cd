"""A config: digits_folder without labels, images and texts alone."""

import ml_collections

from lzn_jax import configuration


def get_config() -> ml_collections.ConfigDict:
    config = configuration.sibling(__file__, "digits_folder")
    config.study = "pairs"
    config.types, config.alignments = ("image", "text"), ("image:text",)
    del config.training.learning_rate.label_anchors
    del config.evaluation.batch_sizes, config.evaluation.context_sizes  # of classification
    config.latent.context_size = 1437
    return config
