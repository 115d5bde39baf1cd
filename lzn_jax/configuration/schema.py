"""Every config field: its type, the values it takes, its default and what it means."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

REQUIRED = object()  # the default of a field that every config states

# Names of registries whose import is JAX's as well, while JAX starts only for a good command: those
# of zoning here; below, with the fields that they bring, those of models and of the sources of
# data. A test keeps them the same.
SOLVERS = ("euler", "dpm", "adams")


@dataclasses.dataclass(frozen=True)
class Field:
    """One config field.

    The ranges of a tuple field hold for each of its items, which are of the type `item`. A value
    may also be one of the `words`, or None where that is the default or `optional` says so. A
    config that lacks a field with a default takes it, as runs do that are older than the field.
    """

    kind: type
    help: str
    default: Any = REQUIRED
    _: dataclasses.KW_ONLY
    item: type = int
    choices: tuple[str | int, ...] = ()
    minimum: int | float | None = None
    maximum: int | float | None = None
    above: int | float | None = None
    below: int | float | None = None
    multiple_of: int | None = None
    nonempty: bool = False
    words: tuple[str, ...] = ()
    optional: bool = False

    @property
    def takes_none(self) -> bool:
        """Whether None is one of its values."""
        return self.optional or self.default is None


_flag = functools.partial(Field, bool)
_word = functools.partial(Field, str)
_count = functools.partial(Field, int, minimum=1)
_count_or_0 = functools.partial(Field, int, minimum=0)
_counts = functools.partial(Field, tuple, minimum=1)
_amount = functools.partial(Field, float, minimum=0)
_positive = functools.partial(Field, float, above=0)
_share = functools.partial(Field, float, minimum=0, maximum=1)
_share_below_1 = functools.partial(Field, float, minimum=0, below=1)


def _choice(help: str, *choices: str) -> Field:
    """A field of a few words, of which the first is the default."""
    return Field(str, help, choices[0], choices=choices)


_NCSNPP = {
    "patch_size": _count("side of the patches that a network sees as pixels", 1),
    "features": Field(int, "channels of the first level", minimum=4, multiple_of=4),
    "channel_multipliers": _counts("levels' channels over features, finest first", nonempty=True),
    "num_res_blocks": _count("residual blocks a level"),
    "attention_resolutions": _counts("feature map widths with attention", ()),
    "dropout": _share_below_1("dropout rate of the residual blocks", 0.0),
    "fir": _flag("resample with the FIR filter (1, 3, 3, 1)", False),
    "progressive_input": _choice("input pyramid", "none", "input_skip"),
}
_NCSNPP_ENCODER = _NCSNPP | {
    "tap_channels": _count("channels of each latent tap", 20),
    "tap_units": _count("hidden units of the taps' MLP", 200),
    "tap_layers": Field(int, "dense layers of the taps' MLP", 2, minimum=2),
    "tap_resolutions": _counts("feature map widths with taps, None = all", None, nonempty=True),
}
_NCSNPP_DECODER = _NCSNPP | {
    "progressive": _choice("output pyramid", "none", "output_skip"),
    "time_embedding": _choice("embedding of time", "positional", "fourier"),
    "fourier_scale": _positive("standard deviation of the Fourier frequencies", 16.0),
    "scale_by_sigma": _flag("divide the output by the network's time input", False),
}
_RESNET = {
    "stage_sizes": _counts("blocks of each stage", nonempty=True),
    "stage_widths": _counts("each stage's bottleneck width, its channels over 4", nonempty=True),
    "stem": _choice("first layers: 'imagenet' halves twice, 'small' never", "imagenet", "small"),
    "stem_width": _count("channels of the stem", 64),
    "selective_kernel_ratio": _amount("choice between kernels: hidden units a width, 0 = one", 0.0),
    "norm_groups": _count("groups of the normalisations", 32),
    "head_dim": _count("outputs of the head, which are latent.dim"),
    "head_layers": _count("dense layers of the head", 2),
}


def _network(prefix: str, fields: Mapping[str, Field]) -> dict[str, Field]:
    return {f"{prefix}.{name}": field for name, field in fields.items()}


_MLP = {
    "features": Field(int, "units of each layer", minimum=4, multiple_of=4),
    "num_blocks": _count("residual blocks"),
    "dropout": _share_below_1("dropout rate of the blocks", 0.0),
}
_TRANSFORMER = {
    "features": _count("width"),
    "num_layers": _count("layers of attention", 1),
    "num_heads": _count("heads of attention, a divisor of the width", 4),
    "dropout": _share_below_1("dropout rate of the layers", 0.0),
}
_FLOW = {
    "sampling.sampler": _choice("solver of the decoder's flow", "rk45", "euler"),
    "sampling.num_steps": _count("steps of the Euler sampler", 100),
}
_GENERATOR = {name: field for name, field in _NCSNPP.items() if name != "progressive_input"}
_ONE_PASS = {
    "decoder.error": _choice("error of each image, in units of [-1, 1]", "l2", "l1"),
    "decoder.energy_weight": _amount("weight of the energy distance beside the error", 1.0),
    "decoder.energy_anchors": _amount("weight in it of the distance of images' anchors", 0.0),
    "decoder.energy_patch_size": _count("side of the patches whose distance is in it", 4),
    "decoder.energy_patches": _count("most places of patches an update", 25),
}
ENCODERS = {
    "ncsnpp": _network("encoder", _NCSNPP_ENCODER),
    "mlp": _network("encoder", _MLP),
    "resnet": _network("encoder", _RESNET),
}
DECODERS = {
    "ncsnpp": _network("decoder", _NCSNPP_DECODER) | _FLOW,
    "mlp": _network("decoder", _MLP) | _FLOW,
    "direct": _network("decoder", _GENERATOR) | _ONE_PASS,
    "direct_mlp": _network("decoder", _MLP) | _ONE_PASS,
}

_DEBIAN = "/usr/share/datasets/fashion-mnist"  # of its package dataset-fashion-mnist
_FLIP = "flip training images left to right at random"


def _small_images(sizes: tuple[int, ...], channels: int, flip: bool) -> dict[str, Field]:
    """Fields of a data set of ten classes whose images have known sizes, the first by default."""
    return {
        "data.image_size": Field(int, "height and width in pixels", sizes[0], choices=sizes),
        "data.channels": Field(int, "image channels", channels, choices=(channels,)),
        "data.num_classes": Field(int, "number of classes", 10, choices=(10,)),
        "data.flip": _flag(_FLIP, flip),
    }


# Of a folder of images None stands for what the images say, until the config is complete.
FROM_IMAGES = ("data.image_size", "data.channels", "data.num_classes")
_ENCODED_IMAGES = {
    "data.image_size": _count("height and width in pixels, after resize and crop"),
    "data.centre_crop": _positive(
        "side of the middle square that is taken, as a share of the shorter side", 1.0, maximum=1
    ),
    "data.channels": Field(int, "image channels: grey or RGB", 3, choices=(1, 3)),
    "data.num_classes": _count("number of classes, 1 = all images are one"),
    "data.flip": _flag(_FLIP, True),
    "data.workers": _count_or_0(
        "processes that decode training images, None = the cores, 0 = a thread does", None
    ),
    "data.skip_unreadable": _flag(
        "replace unreadable images by others of their class, leave out what is no pair", False
    ),
    "data.captions": _flag("each text of an image is an example", False),
}
_LANGUAGES = ("en", "es", "ja", "ko", "pt", "it", "fr", "de", "fa", "id", "zh", "ru", "tr", "ar")
SOURCES = {
    "digits": _small_images((8,), 1, flip=False)  # a mirrored digit is no digit
    | {"data.captions": _flag("each image has a caption of its digit, weight and lean", False)},
    "fashion": {"data.path": _word("folder of the IDX files, or of TFDS's fashion_mnist", _DEBIAN)}
    | _small_images((28, 32), 1, flip=True),
    "cifar10": {"data.path": _word("folder of cifar-10-batches-bin, or of TFDS's cifar10")}
    | _small_images((32,), 3, flip=True),
    "emoji": {
        "data.image_size": _count("height and width in pixels", 32, maximum=256),
        "data.channels": Field(int, "image channels", 3, choices=(3,)),
        "data.num_classes": Field(int, "number of classes", 1, choices=(1,)),
        "data.flip": _flag(_FLIP, False),
        "data.captions": _flag("each name of an emoji is an example", True),
        "data.languages": Field(
            tuple, "languages of the names", ("en",), item=str, choices=_LANGUAGES, nonempty=True
        ),
        "data.test_set": _choice(
            "test emoji: 'held_out' with all their skin tones, or 'skin_tones' of trained ones",
            "held_out",
            "skin_tones",
        ),
    },
    "tfds": _ENCODED_IMAGES
    | {
        "data.path": _word("data_dir of TensorFlow Datasets"),
        "data.tfds_name": _word("data set of TensorFlow Datasets, as NAME/CONFIG:VERSION"),
        "data.train_split": _word("training images, as TFDS writes splits", "train"),
        "data.test_split": _word("test images, as TFDS writes splits", "test"),
    },
    "image_folder": _ENCODED_IMAGES
    | {
        "data.path": _word("folder of images, class folders or train, val and test folders"),
        **{name: dataclasses.replace(_ENCODED_IMAGES[name], default=None) for name in FROM_IMAGES},
        "data.class_name": _word("the one class folder to take, None = all", None),
        "data.holdout": _count_or_0(
            "training images set apart as tests, 0 = all are tests, None = those of a test folder",
            None,
        ),
    },
}

# Defaults are the paper's for most of its experiments, or what does the least.
_EVERY_STUDY = {
    "data.name": _word("data source", choices=tuple(SOURCES)),
    "data.validation": _count_or_0(
        "training examples set apart, which are measured in place of the test set", 0
    ),
    "data.validation_seed": Field(int, "seed of their choice", 0, minimum=0, below=2**32),
    "latent.dim": _count("latent dimension q"),
    "latent.noise_scale": _amount("α of the training latents", 1.0),
    "latent.solver": _word("solver of the encoder's flow", "dpm", choices=SOLVERS),
    "latent.num_steps": _count("solver steps of the encoder's flow", 20),
    "latent.context_size": _count_or_0("context anchors, 0 = the batch itself"),
    "training.batch_size": _count("images an update, over all devices"),
    "training.microbatch_size": _count("images that the networks see at a time, None = all", None),
    "training.shard_parameters": _flag(
        "divide parameters and optimiser state over devices, for networks that do not fit", False
    ),
    "training.devices": _count(
        "devices of a batch; 'dividing': as many as divide it", "all", words=("all", "dividing")
    ),
    "training.remat": _flag("residual blocks compute their insides twice, to save memory", False),
    "training.num_steps": _count("updates"),
    "training.learning_rate.encoder": _positive("the encoder's learning rate"),
    "training.warmup_steps": _count_or_0("updates of linear warm-up", 5000),
    "training.schedule": _choice("learning rate after warm-up", "constant", "cosine"),
    "training.gradient_clip": _positive("largest global norm of a gradient", 1.0),
    "training.ema_decay": _share_below_1("decay of the averaged weights"),
    "training.compute_dtype": _choice("dtype inside the networks", "float32", "bfloat16"),
    "training.log_every_steps": _count("updates between logged metrics", 100),
    "checkpoint.every_steps": _count("updates between checkpoints", 1000),
    "checkpoint.keep": _count("checkpoints kept", 2),
    "evaluation.every_steps": _count("updates between evaluations"),
    "reporting.wandb_project": _word("project of Weights & Biases to show the run in", None),
}
_TYPES = ("image", "label", "text")
_PAIRS = tuple(f"{source}:{target}" for source in _TYPES for target in _TYPES)


def _space(types: tuple[str, ...], *alignments: str) -> dict[str, Field]:
    """What a latent space holds, and which latents are trained to lie in whose zones."""
    return {
        "types": Field(tuple, "data types", types, item=str, choices=_TYPES, nonempty=True),
        "alignments": Field(
            tuple, "alignments, as SOURCE:TARGET", alignments, item=str, choices=_PAIRS
        ),
    }


def _conditions(told: str | None, *latents: str) -> dict[str, Field]:
    """What the image decoder is given: latents of types, and what it is told beside them."""
    return {
        "decoder.told": _word(
            "type that it is told beside latents", told, choices=_TYPES, optional=True
        ),
        "decoder.latents": _latents(*latents),
    }


def _latents(*types: str) -> Field:
    return Field(
        tuple, "types whose latents it learns from, in turn", types, item=str, choices=_TYPES
    )


_GENERATIVE = {
    "latent.enabled": _flag("False: the rectified-flow baseline without latents", True),
    "encoder.name": _word("image encoder", choices=tuple(ENCODERS)),
    "decoder.name": _word("image decoder", choices=tuple(DECODERS)),
    "latent.bank_size": _count_or_0("recent anchors that cut zones beside a batch's own", 0),
    "training.queries": _count(
        "samples of a batch whose latents are drawn, a divisor of batch_size; None = all", None
    ),
    "training.learning_rate.decoder": _positive("the decoder's learning rate"),
    "evaluation.num_samples": _count("images generated an evaluation"),
    "evaluation.inception_path": _word(
        "file of FID's Inception weights, None = metrics without", None
    ),
    "evaluation.clip_path": _word("file of CLIP's weights, None = metrics without CMMD", None),
}
_ALIGNED = {
    "alignment.solver": _word("solver of the flow to the targets", "euler", choices=SOLVERS),
    "alignment.num_steps": _count("solver steps of the flow to the targets"),
    "alignment.cutoff": _share_below_1("share of first steps left out", 0.2),
    "alignment.form": _word("form of the loss", "log", choices=("prob", "log")),
}
_BETWEEN_TYPES = {
    "alignment.noise_scale": _amount("α of the aligned latents, None = those of generation", None),
    "alignment.weight": _amount("weight of the alignment loss", 1.0),
    "training.decoder_steps": _count("updates after which the decoder stays, None = never", None),
    "training.generation_weight": _amount("weight of the flow loss", 1.0),
}
_LABELS = {
    "training.learning_rate.label_anchors": _positive("the label anchors' learning rate"),
    "evaluation.noise_scales": Field(
        tuple,
        "α of the latents that test images are classified by",
        (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2),
        item=float,
        minimum=0,
    ),
    "evaluation.batch_sizes": _counts("test images that are classified among themselves"),
    "evaluation.context_sizes": _counts(
        "context anchors to classify by; beyond the bank: left out"
    ),
}
_REPRESENTATION = {
    "latent.solver": _word("solver of the encoder's flow", "euler", choices=SOLVERS),
    "objective": _choice("'simclr' is the baseline", "lzn", "simclr"),
    "simclr.temperature": _positive("temperature of the baseline's softmax", 0.1),
    "encoder.name": _word("image encoder", choices=("resnet",)),
    "augmentation.min_area": _positive("smallest crop, as a share of the image", 0.08, maximum=1),
    "augmentation.jitter_probability": _share("how often colours are jittered", 0.8),
    "augmentation.brightness": _amount("largest relative change", 0.8),
    "augmentation.contrast": _amount("largest relative change", 0.8),
    "augmentation.saturation": _amount("largest relative change", 0.8),
    "augmentation.hue": _share("largest shift, as a share of the circle", 0.2, maximum=0.5),
    "augmentation.grey_probability": _share("how often colours are dropped", 0.2),
    "augmentation.blur_probability": _share("how often the image is blurred", 1.0),
    "augmentation.blur_kernel": _count("pixels of the blur's kernel, odd", 23),
    "augmentation.blur_max_sigma": _amount(
        "largest standard deviation of the blur in pixels", 2.0, minimum=0.1
    ),
    "evaluation.probe_protocol": _choice(
        "training of the linear probe", "cached", "paper", "simclr"
    ),
}
_TEXT = {
    "objective": _choice("'infonce' is the baseline of retrieval: no zones", "lzn", "infonce"),
    "infonce.temperature": _positive("temperature of the baseline's softmax", 0.07),
    "data.tokenizer_path": _word("file of Hugging Face's tokenizers, None = text.alphabet", None),
    "text.alphabet": _word("characters of the texts, None = bytes of UTF-8", None),
    "text.max_length": _count("tokens of the longest text, its end included", minimum=2),
    "text.context_size": _count("known texts, whose anchors cut zones"),
    "training.learning_rate.text_encoder": _positive("the text encoder's learning rate"),
    "training.learning_rate.text_decoder": _positive("the text decoder's learning rate"),
    "training.text_weight": _amount("weight of the text decoder's loss", 1.0),
    "training.flow_draws": _count("noises and times an image in the flow's loss", 1),
    "decoder.told_dropout": _share_below_1("how often the decoder is not told", 0.0),
    **_network("text_encoder", _TRANSFORMER),
    **_network("text_decoder", _TRANSFORMER),
    "text_decoder.latents": _latents("text", "image"),
    "sampling.temperature": _amount("of texts, 0 = the likeliest token after another", 0.0),
    "sampling.top_p": _positive(
        "probability of the likeliest tokens, of which texts are drawn", 1.0, maximum=1
    ),
    "text_decoder.noise_scale": _amount("α of its latents, None = from 0 to 1 at random", None),
}
# A preset: the types of a space, their alignments, and what decoders are given.
_STUDIES = {
    "generation": _space(("image",)),
    "alone": _space(("image", "label")),  # nothing is aligned: labels name zones of images
    "representation": _space(("image",), "image:image"),
    "joint": _space(("image", "label"), "image:label") | _conditions("label", "image"),
    "pairs": (
        _space(("image", "text"), "image:text", "text:image") | _conditions("text", "text", "image")
    ),
    "text": (
        _space(("image", "label", "text"), "image:text", "image:label", "text:label")
        | _conditions("text", "text", "image")
    ),
}

_EVERY_CONFIG = {
    "study": _word(
        "preset of types and alignments, None = the config's own", None, choices=tuple(_STUDIES)
    ),
    # jax.random.key keeps 32 bits of a seed and drops the rest without a word.
    "seed": Field(int, "seed of every random draw", 0, minimum=0, below=2**32),
}
# The value of each selector, a field that comes before, adds fields to those that a config holds.
_SELECTORS: Mapping[str, Mapping[str, Mapping[str, Field]]] = {
    "data.name": SOURCES,
    "encoder.name": ENCODERS,
    "decoder.name": DECODERS,
}
_ALL = (
    *(_EVERY_STUDY, _GENERATIVE, _FLOW, _ALIGNED, _BETWEEN_TYPES, _LABELS, _REPRESENTATION),
    _TEXT,
)
GROUPS = sorted({name.rpartition(".")[0] for fields in _ALL for name in fields} - {""})


def schema_of(values: Mapping[str, Any]) -> dict[str, Field]:
    """The fields that a config holds, by dotted name, given its space and its selectors."""
    preset = _STUDIES.get(str(values.get("study")), _space(("image",)))
    fields = _EVERY_CONFIG | preset | _EVERY_STUDY
    types, alignments = (
        value if isinstance(value, tuple | list) else ()
        for value in (values.get(name, fields[name].default) for name in ("types", "alignments"))
    )
    if "image:image" in alignments:  # two views of an image
        fields |= _ALIGNED | _REPRESENTATION
    else:
        fields |= _GENERATIVE | _conditions(None, "image") | preset
        fields |= _ALIGNED | _BETWEEN_TYPES if {"label", "text"} & set(types) else {}
        fields |= _LABELS if "label" in types else {}
        fields |= _TEXT if "text" in types else {}
    for selector, known in _SELECTORS.items():
        if selector in fields:
            fields |= known.get(str(values.get(selector)), {})
    return fields


def with_defaults(values: Mapping[str, Any], fields: Mapping[str, Field]) -> dict[str, Any]:
    """The values by dotted name, and the defaults of the fields that they lack."""
    defaults = {n: field.default for n, field in fields.items() if field.default is not REQUIRED}
    return defaults | dict(values)
