"""Registration of the package's data sets and their config fields."""

import dataclasses
import functools
from typing import Any

from lzn_jax import parts
from lzn_jax.parts import Field, choice, count, count_or_0, flag, positive, word, words

_DEBIAN = "/usr/share/datasets/fashion-mnist"  # of Debian's package dataset-fashion-mnist
_FLIP = "flip training images left to right at random"


def _fixed_images(
    size: int, channels: int, classes: int, *, flip: bool, **sizes: Any
) -> dict[str, Field]:
    """Fields of a data set with fixed channels and classes; `sizes` limits the image size."""
    field = functools.partial(Field, int, from_data=True)
    return {
        "data.image_size": field("height and width in pixels", size, **sizes),
        "data.channels": field("image channels", channels, choices=(channels,)),
        "data.num_classes": field("number of classes", classes, choices=(classes,)),
        "data.flip": flag(_FLIP, flip),
    }


_ENCODED_IMAGES = {
    # The limit keeps a config of others from taking all memory.
    "data.image_size": count("height and width in pixels, after resize and crop", maximum=4096),
    "data.centre_crop": positive(
        "side of the central square crop, as a share of the shorter side", 1.0, maximum=1
    ),
    "data.channels": Field(int, "image channels: grey or RGB", 3, choices=(1, 3)),
    "data.num_classes": count("number of classes, 1 = all images are in one class"),
    "data.flip": flag(_FLIP, True),
    "data.workers": count_or_0(
        "processes that decode training images, None = one for each core, 0 = a thread", None
    ),
    "data.skip_unreadable": flag(
        "replace unreadable images by the next example, leave out unpaired texts and images", False
    ),
    "data.captions": flag("each text of an image is an example", False),
}
_FROM_IMAGES = {
    name: dataclasses.replace(_ENCODED_IMAGES[name], default=None, from_data=True)
    for name in ("data.image_size", "data.channels", "data.num_classes")
}
_LANGUAGES = ("en", "es", "ja", "ko", "pt", "it", "fr", "de", "fa", "id", "zh", "ru", "tr", "ar")

parts.add(
    "data",
    "digits",
    "lzn_jax.data.digits",
    _fixed_images(8, 1, 10, flip=False, choices=(8,))  # a mirrored digit is not a digit
    | {"data.captions": flag("each image has a caption of its digit, weight and lean", False)},
)
parts.add(
    "data",
    "fashion",
    "lzn_jax.data.fashion",
    {"data.path": word("folder of the IDX files, or of TFDS's fashion_mnist", _DEBIAN)}
    | _fixed_images(28, 1, 10, flip=True, choices=(28, 32)),
)
parts.add(
    "data",
    "cifar10",
    "lzn_jax.data.cifar10",
    {"data.path": word("folder of cifar-10-batches-bin, or of TFDS's cifar10")}
    | _fixed_images(32, 3, 10, flip=True, choices=(32,)),
)
parts.add(
    "data",
    "emoji",
    "lzn_jax.data.emoji",
    _fixed_images(32, 3, 1, flip=False, minimum=1, maximum=256)
    | {
        "data.captions": flag("each name of an emoji is an example", True),
        "data.languages": words(
            "languages of the names", ("en",), choices=_LANGUAGES, nonempty=True
        ),
        "data.test_set": choice(
            "test emoji: 'held_out' families, or held-out 'skin_tones' of training families",
            "held_out",
            "skin_tones",
        ),
    },
)
parts.add(
    "data",
    "tfds",
    "lzn_jax.data.tfds",
    _ENCODED_IMAGES
    | {
        "data.path": word("data_dir of TensorFlow Datasets"),
        "data.tfds_name": word("data set of TensorFlow Datasets, as NAME/CONFIG:VERSION"),
        "data.train_split": word("split of training images, in TFDS's notation", "train"),
        "data.test_split": word("split of test images, in TFDS's notation", "test"),
    },
)
parts.add(
    "data",
    "image_folder",
    "lzn_jax.data.folder",
    _ENCODED_IMAGES
    | {"data.path": word("folder of images, class folders or train, val and test folders")}
    | _FROM_IMAGES
    | {
        "data.class_name": word("the only class folder to read, None = all", None),
        "data.holdout": count_or_0(
            "training images held out for tests, 0 = test on all of them, None = use a test folder",
            None,
        ),
        "data.holdout_seed": Field(int, "seed of the hold-out", 0, minimum=0, below=2**32),
    },
)
