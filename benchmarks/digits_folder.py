"""A config: digits_text on a folder of pairs, which caption_folders.py writes."""

import ml_collections

from lzn_jax import configuration


def get_config() -> ml_collections.ConfigDict:
    config = configuration.sibling("configs/any.py", "digits_text")
    config.data = ml_collections.ConfigDict({"name": "image_folder", "path": "", "captions": True})
    config.data.image_size, config.data.channels, config.data.num_classes = 8, 1, 10
    config.data.flip = False
    config.data.workers = 0
    config.latent.context_size = 1281  # the images whose captions are not held out
    return config
