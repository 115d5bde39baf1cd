"""Case study 2 (paper section 4 and appendix D) on ImageNet prepared by TensorFlow Datasets.

    python -m lzn_jax.main --config=configs/imagenet_tfds_repr.py --config.data.path=DATA_DIR

DATA_DIR is the output folder of `tfds build imagenet2012 --file_format=array_record`. Reading it
does not need TensorFlow, only `pip install -e '.[tfds]'`.
Expected, cost, memory, chips: as for imagenet_repr.py. This config was not run by us.
"""

import ml_collections

from lzn_jax import configuration


def get_config() -> ml_collections.ConfigDict:
    """The config of this experiment: imagenet_repr from another source."""
    config = configuration.sibling(__file__, "imagenet_repr")
    config.data.name = "tfds"
    config.data.path = "data/tfds"
    config.data.tfds_name = "imagenet2012"
    config.data.test_split = "validation"
    return config
