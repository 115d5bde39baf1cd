"""One space of images and texts (paper figure 1) at full scale: COCO's captions from TFDS.

    python -m lzn_jax.main --config=configs/image_tfds_text.py --config.data.path=DATA_DIR \
        --config.data.tokenizer_path=tokenizer.json

DATA_DIR is the output folder of `tfds build coco_captions --file_format=array_record`: 82,783
training images with five captions each. Reading it does not need TensorFlow, only
`pip install -e '.[tfds,text]'`.
Expected, cost, memory, chips: as for image_text.py. This config was not run by us.
"""

import ml_collections

from lzn_jax import configuration


def get_config() -> ml_collections.ConfigDict:
    """The config of this experiment: image_text from another source."""
    config = configuration.sibling(__file__, "image_text")
    config.data.name = "tfds"
    config.data.path = "data/tfds"
    config.data.tfds_name = "coco_captions"
    return config
