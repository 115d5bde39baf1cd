"""Experiment configs: read a config file, apply command-line values, check every field."""

import ast
import dataclasses
import difflib
import json
import math
import runpy
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections

# As in lzn_jax.zoning, whose import is JAX's as well; a test keeps them the same.
PRECISIONS = ("float32", "tensorfloat32", "bfloat16_3x", "bfloat16")
SOLVERS = ("euler", "dpm", "adams")


EXIT_USER_ERROR, EXIT_RUN_AGAIN = 2, 75


class UserError(Exception):
    """The user's input is at fault; one line says what is wrong and what would be right."""


REQUIRED = object()  # the default of a field that every config states


@dataclasses.dataclass(frozen=True)
class Field:
    """One config field: its type, the values it takes and what it means.

    The ranges of a tuple field hold for each of its items, which are of the type `item`. A value
    may also be one of the `words`. A config that lacks a field with a default takes it, as runs do
    that are older than the field.
    """

    kind: type
    help: str
    item: type = int
    choices: tuple[str | int, ...] = ()
    minimum: int | float | None = None
    maximum: int | float | None = None
    above: int | float | None = None
    below: int | float | None = None
    multiple_of: int | None = None
    nonempty: bool = False
    optional: bool = False
    words: tuple[str, ...] = ()
    default: Any = REQUIRED


def _network(prefix: str, fields: Mapping[str, Field]) -> dict[str, Field]:
    return {f"{prefix}.{name}": field for name, field in fields.items()}


_NCSNPP = {
    "patch_size": Field(int, "side of the patches that a network sees as pixels", minimum=1),
    "features": Field(int, "channels of the first level", minimum=4, multiple_of=4),
    "channel_multipliers": Field(
        tuple, "channels of each level over features, finest first", minimum=1, nonempty=True
    ),
    "num_res_blocks": Field(int, "residual blocks a level", minimum=1),
    "attention_resolutions": Field(tuple, "feature map widths with attention", minimum=1),
    "dropout": Field(float, "dropout rate of the residual blocks", minimum=0, below=1),
    "fir": Field(bool, "resample with the FIR filter (1, 3, 3, 1)"),
    "progressive_input": Field(str, "input pyramid", choices=("none", "input_skip")),
}
_NCSNPP_ENCODER = _NCSNPP | {
    "tap_channels": Field(int, "channels of each latent tap", minimum=1),
    "tap_units": Field(int, "hidden units of the taps' MLP", minimum=1),
    "tap_layers": Field(int, "dense layers of the taps' MLP", minimum=2),
    "tap_resolutions": Field(
        tuple, "feature map widths with taps, None = all", minimum=1, nonempty=True, optional=True
    ),
}
_NCSNPP_DECODER = _NCSNPP | {
    "progressive": Field(str, "output pyramid", choices=("none", "output_skip")),
    "time_embedding": Field(str, "embedding of time", choices=("positional", "fourier")),
    "fourier_scale": Field(float, "standard deviation of the Fourier frequencies", above=0),
    "scale_by_sigma": Field(bool, "divide the output by the network's time input"),
}

_RESNET = {
    "stage_sizes": Field(tuple, "blocks of each stage", minimum=1, nonempty=True),
    "stage_widths": Field(
        tuple, "bottleneck width of each stage, a quarter of its channels", minimum=1, nonempty=True
    ),
    "stem": Field(
        str, "first layers: 'imagenet' halves twice, 'small' never", choices=("imagenet", "small")
    ),
    "stem_width": Field(int, "channels of the stem", minimum=1),
    "selective_kernel_ratio": Field(
        float, "hidden units a width of the choice between kernels, 0 = one kernel", minimum=0
    ),
    "norm_groups": Field(int, "groups of the normalisations", minimum=1),
    "head_dim": Field(int, "outputs of the head, which are latent.dim", minimum=1),
    "head_layers": Field(int, "dense layers of the head", minimum=1),
}

_FLIP = Field(bool, "flip training images left to right at random")
_ENCODED_IMAGES = {
    "data.image_size": Field(int, "height and width in pixels, after resize and crop", minimum=1),
    "data.centre_crop": Field(
        float,
        "side of the middle square that is taken, as a share of the shorter side",
        above=0,
        maximum=1,
    ),
    "data.channels": Field(int, "image channels: grey or RGB", choices=(1, 3)),
    "data.num_classes": Field(int, "number of classes, 1 = all images are one", minimum=1),
    "data.flip": _FLIP,
    "data.workers": Field(int, "processes that decode training images", minimum=0),
    "data.skip_unreadable": Field(
        bool, "replace unreadable images by others of their class; False: stop at the first"
    ),
}

_EVERY_STUDY = {
    "data.name": Field(
        str, "data source", choices=("digits", "fashion", "cifar10", "tfds", "image_folder")
    ),
    "latent.dim": Field(int, "latent dimension q", minimum=1),
    "latent.noise_scale": Field(float, "α of the training latents", minimum=0),
    "latent.solver": Field(str, "solver of the encoder's flow", choices=SOLVERS),
    "latent.num_steps": Field(int, "solver steps of the encoder's flow", minimum=1),
    "latent.precision": Field(
        str, "matrix products of the zoning, float32 or less", choices=PRECISIONS
    ),
    "latent.context_size": Field(int, "context anchors, 0 = the batch itself", minimum=0),
    "training.batch_size": Field(int, "images an update, over all devices", minimum=1),
    "training.microbatch_size": Field(
        int,
        "images that the networks see at a time, None = all",
        minimum=1,
        optional=True,
    ),
    "training.shard_parameters": Field(
        bool, "divide parameters and optimiser state over the devices, for networks that do not fit"
    ),
    "training.devices": Field(
        int,
        "devices that share a batch, or which rule says how many: 'all' that there are, or as many "
        "as are 'dividing' it",
        minimum=1,
        words=("all", "dividing"),
        default="all",
    ),
    "training.remat": Field(
        bool,
        "compute the insides of residual blocks again in the backward pass, to save memory",
        default=False,
    ),
    "training.num_steps": Field(int, "updates", minimum=1),
    "training.learning_rate.encoder": Field(float, "the encoder's learning rate", above=0),
    "training.warmup_steps": Field(int, "updates of linear warm-up", minimum=0),
    "training.schedule": Field(str, "learning rate after warm-up", choices=("constant", "cosine")),
    "training.gradient_clip": Field(float, "largest global norm of a gradient", above=0),
    "training.ema_decay": Field(float, "decay of the averaged weights", minimum=0, below=1),
    "training.compute_dtype": Field(
        str, "dtype inside the networks", choices=("float32", "bfloat16")
    ),
    "training.log_every_steps": Field(int, "updates between logged metrics", minimum=1),
    "checkpoint.every_steps": Field(int, "updates between checkpoints", minimum=1),
    "checkpoint.keep": Field(int, "checkpoints kept", minimum=1),
    "evaluation.every_steps": Field(int, "updates between evaluations", minimum=1),
}
_GENERATIVE = {
    "latent.enabled": Field(bool, "False: the rectified-flow baseline without latents"),
    "encoder.name": Field(str, "image encoder", choices=("ncsnpp", "resnet")),
    "decoder.name": Field(str, "image decoder", choices=("ncsnpp",)),
    "training.learning_rate.decoder": Field(float, "the decoder's learning rate", above=0),
    "evaluation.num_samples": Field(int, "images generated an evaluation", minimum=1),
    "evaluation.inception_path": Field(
        str, "file of the FID Inception's weights, None = metrics without it", optional=True
    ),
    "evaluation.clip_path": Field(
        str, "file of CLIP's weights, None = metrics without CMMD", optional=True
    ),
    "sampling.sampler": Field(str, "solver of the decoder's flow", choices=("rk45", "euler")),
    "sampling.num_steps": Field(int, "steps of the Euler sampler", minimum=1),
}
_ALIGNED = {
    "alignment.solver": Field(
        str, "solver of the flow to the targets", choices=SOLVERS, default="euler"
    ),
    "alignment.num_steps": Field(int, "solver steps of the flow to the targets", minimum=1),
    "alignment.cutoff": Field(float, "share of first steps left out", minimum=0, below=1),
    "alignment.form": Field(str, "form of the loss", choices=("prob", "log")),
}
_JOINT = {
    "alignment.noise_scale": Field(
        float,
        "α of the aligned latents, None = the generation latents",
        minimum=0,
        optional=True,
    ),
    "alignment.weight": Field(float, "weight of the alignment loss", minimum=0),
    "training.decoder_steps": Field(
        int, "updates after which the decoder stays, None = never", minimum=1, optional=True
    ),
    "training.learning_rate.label_anchors": Field(
        float, "the label anchors' learning rate", above=0
    ),
    "training.generation_weight": Field(float, "weight of the flow loss", minimum=0),
    "evaluation.noise_scales": Field(
        tuple, "α of the latents that test images are classified by", item=float, minimum=0
    ),
    "evaluation.batch_sizes": Field(
        tuple, "test images that are classified among themselves", minimum=1
    ),
    "evaluation.context_sizes": Field(
        tuple, "context anchors to classify by; larger than the bank: left out", minimum=1
    ),
}
_REPRESENTATION = {
    "objective": Field(str, "'simclr' is the baseline", choices=("lzn", "simclr")),
    "simclr.temperature": Field(float, "temperature of the baseline's softmax", above=0),
    "encoder.name": Field(str, "image encoder", choices=("resnet",)),
    "augmentation.min_area": Field(
        float, "smallest crop, as a share of the image", above=0, maximum=1
    ),
    "augmentation.jitter_probability": Field(
        float, "how often colours are jittered", minimum=0, maximum=1
    ),
    "augmentation.brightness": Field(float, "largest relative change", minimum=0),
    "augmentation.contrast": Field(float, "largest relative change", minimum=0),
    "augmentation.saturation": Field(float, "largest relative change", minimum=0),
    "augmentation.hue": Field(
        float, "largest shift, as a share of the circle", minimum=0, maximum=0.5
    ),
    "augmentation.grey_probability": Field(
        float, "how often colours are dropped", minimum=0, maximum=1
    ),
    "augmentation.blur_probability": Field(
        float, "how often the image is blurred", minimum=0, maximum=1
    ),
    "augmentation.blur_kernel": Field(int, "pixels of the blur's kernel, odd", minimum=1),
    "augmentation.blur_max_sigma": Field(
        float, "largest standard deviation of the blur in pixels", minimum=0.1
    ),
    "evaluation.probe_protocol": Field(
        str, "how the linear probe is trained", choices=("cached", "paper", "simclr")
    ),
}

# A group is read when its selector, a field of an earlier group, has the given value; the fields
# of all groups read are the fields a config holds.
SCHEMA: Mapping[tuple[str, str] | None, Mapping[str, Field]] = {
    None: {
        "study": Field(
            str, "case study of the paper", choices=("generation", "representation", "joint")
        ),
        # jax.random.key keeps 32 bits of a seed and drops the rest without a word.
        "seed": Field(int, "seed of every random draw", minimum=0, below=2**32),
    },
    ("study", "generation"): _EVERY_STUDY | _GENERATIVE,
    ("study", "representation"): _EVERY_STUDY | _ALIGNED | _REPRESENTATION,
    ("study", "joint"): _EVERY_STUDY | _GENERATIVE | _ALIGNED | _JOINT,
    ("data.name", "digits"): {
        "data.image_size": Field(int, "height and width in pixels", choices=(8,)),
        "data.channels": Field(int, "image channels", choices=(1,)),
        "data.num_classes": Field(int, "number of classes", choices=(10,)),
        "data.flip": _FLIP,
    },
    ("data.name", "fashion"): {
        "data.path": Field(str, "folder of the IDX files, or of TFDS's fashion_mnist"),
        "data.image_size": Field(int, "height and width in pixels", choices=(28, 32)),
        "data.channels": Field(int, "image channels", choices=(1,)),
        "data.num_classes": Field(int, "number of classes", choices=(10,)),
        "data.flip": _FLIP,
    },
    ("data.name", "cifar10"): {
        "data.path": Field(str, "folder of cifar-10-batches-bin, or of TFDS's cifar10"),
        "data.image_size": Field(int, "height and width in pixels", choices=(32,)),
        "data.channels": Field(int, "image channels", choices=(3,)),
        "data.num_classes": Field(int, "number of classes", choices=(10,)),
        "data.flip": _FLIP,
    },
    ("data.name", "tfds"): _ENCODED_IMAGES
    | {
        "data.path": Field(str, "data_dir of TensorFlow Datasets"),
        "data.tfds_name": Field(str, "data set of TensorFlow Datasets, as NAME/CONFIG:VERSION"),
        "data.train_split": Field(str, "training images, as TFDS writes splits"),
        "data.test_split": Field(str, "test images, as TFDS writes splits"),
    },
    ("data.name", "image_folder"): _ENCODED_IMAGES
    | {
        "data.path": Field(str, "folder of images, class folders or train, val and test folders"),
        "data.class_name": Field(str, "the one class folder to take, None = all", optional=True),
        "data.holdout": Field(
            int,
            "training images set apart for tests, 0 = tests on training images, "
            "None = the folder has a test folder",
            minimum=0,
            optional=True,
        ),
    },
    ("encoder.name", "ncsnpp"): _network("encoder", _NCSNPP_ENCODER),
    ("encoder.name", "resnet"): _network("encoder", _RESNET),
    ("decoder.name", "ncsnpp"): _network("decoder", _NCSNPP_DECODER),
}


def load(path: str, overrides: Sequence[str] = ()) -> ml_collections.ConfigDict:
    """The checked, immutable config of the file at `path`, changed by `FIELD=VALUE` overrides.

    Raises UserError for a file that gives no config and for a field or value at fault.
    """
    values = _validate(_flatten(_read(Path(path))))
    fields = schema_of(values)
    values = _validate(values | dict(_parse_override(text, fields) for text in overrides))
    return ml_collections.FrozenConfigDict(_nest(values))


def load_json(path: Path) -> ml_collections.ConfigDict:
    """The checked, immutable config that a run wrote (see `to_json_dict`).

    Raises UserError for a file that holds none and for a field or value at fault.
    """
    try:
        tree = json.loads(path.read_text())
        if not isinstance(tree, dict):
            raise ValueError("no object")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not the config of a run: {_one_line(str(error))}") from error
    try:
        return ml_collections.FrozenConfigDict(_nest(_validate(_flatten(tree))))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def sibling(file: str, name: str) -> ml_collections.ConfigDict:
    """The config `name`, unchecked and open to change, from the folder of the config file `file`.

    For configs that say only what they change: `config = sibling(__file__, "digits_gen")`. Raises
    UserError where `name` gives no config.
    """
    return ml_collections.ConfigDict(_read(Path(file).with_name(f"{name}.py")))


def schema_of(values: Mapping[str, Any]) -> dict[str, Field]:
    """The fields that a config holds, by dotted name, given the `values` of its selectors."""
    fields: dict[str, Field] = {}
    for selector, group in SCHEMA.items():
        if selector is None or (selector[0] in fields and values.get(selector[0]) == selector[1]):
            fields |= group
    return fields


def to_json_dict(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The config as nested dicts of plain Python values, tuples as lists."""
    values = _flatten(config.to_dict())
    return _nest({k: list(v) if isinstance(v, tuple) else v for k, v in values.items()})


def _read(path: Path) -> dict[str, Any]:
    """What get_config() of the file at `path` returns, as nested dicts."""
    if path.suffix != ".py" or not path.is_file():
        raise UserError(_no_such_config(path))
    try:
        # Unlike an import, run_path leaves no bytecode beside the config.
        get_config = runpy.run_path(str(path)).get("get_config")
        config = get_config() if callable(get_config) else None
        # A placeholder that the file leaves unset raises here.
        tree = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else None
    except UserError:  # of a sibling, which it names
        raise
    except Exception as error:
        raise UserError(_failed(path, error)) from error
    if not callable(get_config):
        raise UserError(f"{path} must define a function get_config()")
    if tree is None:
        got = type(config).__name__
        raise UserError(
            f"get_config() of {path} must return an ml_collections.ConfigDict, not {got}"
        )
    return tree


def _failed(path: Path, error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f", line {frame.lineno}" for frame in frames if frame.filename == str(path)]
    place = f"{path}{lines[-1] if lines else ''}"
    return _one_line(
        f"{place}: a config must run without errors, got {type(error).__name__}: {error}"
    )


def _no_such_config(path: Path) -> str:
    message = f"there is no config file {path}"
    folder = path if path.is_dir() else path.parent
    if not folder.is_dir():
        return f"{message}: {folder} is not a directory"
    names = sorted(other.name for other in folder.glob("*.py"))
    nearest = difflib.get_close_matches(f"{path.stem}.py", names, n=1, cutoff=0)
    if not nearest:
        return f"{message}, nor any other in {folder}"
    return f"{message}; the nearest is {folder / nearest[0]}"


def _flatten(tree: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        # An empty group stays, so that it is reported instead of lost.
        is_group = isinstance(value, Mapping) and value
        flat |= _flatten(value, f"{prefix}{key}.") if is_group else {f"{prefix}{key}": value}
    return flat


def _nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *groups, leaf = name.split(".")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[leaf] = value
    return tree


def _parse_override(text: str, fields: Mapping[str, Field]) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"an override must read FIELD=VALUE, got {text!r}")
    if name not in fields:
        raise UserError(_unknown(name, fields))
    return name, _checked(name, _parse(value, fields[name]), fields[name])


def _parse(text: str, field: Field) -> Any:
    """The Python value that `text` spells, or `text` itself where it spells none."""
    if field.optional and text in ("None", "none"):
        return None
    if field.kind is str or text in field.words:
        return text
    if field.kind is bool:
        return {"True": True, "true": True, "False": False, "false": False}.get(text, text)
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
    is_item = field.kind is tuple and _converted(value, field.item, field.item) is not None
    return (value,) if is_item else value


def _validate(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values in canonical types, in the schema's order; raises UserError at the first fault."""
    fields = schema_of(values)
    values = with_defaults(values, fields)
    checked = {
        name: _checked(name, values[name], field)
        for name, field in fields.items()
        if name in values
    }
    extra = [name for name in values if name not in fields]
    for name, field in fields.items():
        if name not in values:
            raise UserError(_missing(name, field, extra))
    if extra:
        raise UserError(_unknown(extra[0], fields))
    _check_across(checked)
    return checked


def with_defaults(values: Mapping[str, Any], fields: Mapping[str, Field]) -> dict[str, Any]:
    """The values by dotted name, and the defaults of the fields that they lack."""
    defaults = {n: field.default for n, field in fields.items() if field.default is not REQUIRED}
    return defaults | dict(values)


def _missing(name: str, field: Field, extra: Sequence[str]) -> str:
    message = f"the config lacks the field {name} ({field.help}): {_expected(field)}"
    near = difflib.get_close_matches(name, extra, n=1, cutoff=0.8)
    return f"{message}; it holds {near[0]}, which is no field" if near else message


def _unknown(name: str, fields: Iterable[str]) -> str:
    def closeness(field: str) -> tuple[float, float]:
        whole = difflib.SequenceMatcher(None, name, field).ratio()
        leaves = name.rpartition(".")[2], field.rpartition(".")[2]
        return max(whole, difflib.SequenceMatcher(None, *leaves).ratio()), whole

    return f"the config holds no field {name}; the nearest is {max(fields, key=closeness)}"


def _checked(name: str, value: Any, field: Field) -> Any:
    """`value` in the field's type: integers as floats, lists as tuples where those are meant."""
    if (value is None and field.optional) or (isinstance(value, str) and value in field.words):
        return value
    result = _converted(value, field.kind, field.item)
    if result is None or not _in_range(result, field):
        raise UserError(f"{name} must be {_expected(field)}, got {_one_line(repr(value))}")
    return result


def _converted(value: Any, kind: type, item: type) -> Any:
    """`value` as the type `kind`, a tuple of `item`s; None where it is not of that type."""
    if kind is tuple and isinstance(value, tuple | list):
        items = tuple(_converted(each, item, item) for each in value)
        return None if None in items else items
    if kind is float:
        return _finite_float(value) if isinstance(value, float) or _is_int(value) else None
    if kind is int:
        return value if _is_int(value) else None
    return value if isinstance(value, kind) else None


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _finite_float(value: int | float) -> float | None:
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer beyond the largest float
        return None


def _in_range(value: Any, field: Field) -> bool:
    if field.choices:
        return value in field.choices
    if field.kind is tuple:
        item = dataclasses.replace(field, kind=field.item)
        return bool(value or not field.nonempty) and all(_in_range(v, item) for v in value)
    return (
        (field.minimum is None or value >= field.minimum)
        and (field.maximum is None or value <= field.maximum)
        and (field.above is None or value > field.above)
        and (field.below is None or value < field.below)
        and (field.multiple_of is None or value % field.multiple_of == 0)
    )


def _expected(field: Field) -> str:
    """What a value of the field must be, in words."""
    kinds = {
        bool: "True or False",
        int: "an integer",
        float: "a finite number",
        str: "a string",
    }
    if field.choices:
        choices = ", ".join(map(repr, field.choices))
        text = f"one of {choices}" if len(field.choices) > 1 else choices
    elif field.kind is tuple:
        items = {int: "integers", float: "finite numbers"}[field.item]
        text = f"a {'non-empty ' if field.nonempty else ''}tuple of {items}"
    else:
        text = kinds[field.kind]
    limits = [
        (">=", field.minimum),
        (">", field.above),
        ("<=", field.maximum),
        ("<", field.below),
    ]
    bounds = [f"{relation} {limit}" for relation, limit in limits if limit is not None]
    if field.multiple_of is not None:
        bounds.append(f"a multiple of {field.multiple_of}")
    text = " ".join([text, " and ".join(bounds)]).strip()
    others = [*map(repr, field.words), *(["None"] if field.optional else [])]
    return " or ".join([text, *others])


def _check_across(values: Mapping[str, Any]) -> None:
    """Raises UserError where fields that are right by themselves do not go together."""
    for flow in ("latent", "alignment"):
        got = values.get(f"{flow}.num_steps", math.inf)
        if values.get(f"{flow}.solver") == "dpm" and got < 3:
            raise UserError(
                f"{flow}.num_steps must be an integer >= 3 with {flow}.solver 'dpm', got {got}"
            )
    batch_size, size = values["training.batch_size"], values["training.microbatch_size"]
    if size is not None and batch_size % size:
        raise UserError(
            f"training.microbatch_size must divide training.batch_size {batch_size}, got {size}"
        )
    for network in ("encoder", "decoder"):
        if check := _NETWORK_CHECKS.get(values.get(f"{network}.name", "")):
            check(values, network)
    if values["study"] == "representation":
        _check_blur(values)
    elif values["decoder.scale_by_sigma"] and values["decoder.time_embedding"] != "fourier":
        raise UserError(
            "decoder.scale_by_sigma must be False unless decoder.time_embedding is 'fourier', "
            "got True"
        )
    if values["study"] == "joint" and values["data.num_classes"] < 2:
        raise UserError("data.num_classes must be an integer >= 2 in the joint study, got 1")
    if values["study"] == "joint" and values["training.generation_weight"] == 0:
        _check_alignment(values)


def _check_alignment(values: Mapping[str, Any]) -> None:
    """Raises UserError where nothing is aligned, for a joint study that generates nothing."""
    if not values["latent.enabled"] or values["alignment.weight"] == 0:
        raise UserError(
            "training.generation_weight must be > 0 unless latent.enabled is True and "
            "alignment.weight > 0: nothing would train, got 0.0"
        )


def _check_blur(values: Mapping[str, Any]) -> None:
    """The kernel has a centre, and its reflections stay inside the image."""
    kernel, most = values["augmentation.blur_kernel"], 2 * values["data.image_size"] - 1
    if kernel % 2 == 0 or kernel > most:
        raise UserError(
            f"augmentation.blur_kernel must be odd and at most {most}, twice data.image_size "
            f"less one, got {kernel}"
        )


def _check_resolutions(values: Mapping[str, Any], network: str) -> None:
    """Patches divide the image, and each level halves the one before it, without a remainder."""
    patch = values[f"{network}.patch_size"]
    size, rest = divmod(values["data.image_size"], patch)
    if rest:
        raise UserError(
            f"{network}.patch_size must divide data.image_size {values['data.image_size']}, "
            f"got {patch}"
        )
    multipliers = values[f"{network}.channel_multipliers"]
    widths = [size >> level for level in range(len(multipliers))]
    if size % 2 ** (len(multipliers) - 1) != 0:
        most = (size & -size).bit_length()
        raise UserError(
            f"{network}.channel_multipliers must have at most {most} entries, "
            f"one for each halving of the {size} patches of an image's side and one more, "
            f"got {multipliers}"
        )
    for name in (f"{network}.attention_resolutions", f"{network}.tap_resolutions"):
        resolutions = values.get(name) or ()
        if not set(resolutions) <= set(widths):
            raise UserError(
                f"{name} must hold widths of {network} feature maps, "
                f"which are {', '.join(map(str, widths))}, got {resolutions}"
            )


def _check_widths(values: Mapping[str, Any], network: str) -> None:
    """Stages agree in number, groups divide every width, and the head gives latents."""
    sizes, widths = values[f"{network}.stage_sizes"], values[f"{network}.stage_widths"]
    if len(sizes) != len(widths):
        raise UserError(
            f"{network}.stage_widths must have {len(sizes)} entries, one for each of "
            f"{network}.stage_sizes, got {widths}"
        )
    groups = values[f"{network}.norm_groups"]
    # With selective kernels the stem has layers of half its width.
    halved = values[f"{network}.selective_kernel_ratio"] > 0
    divisors = {"stem_width": groups * (2 if halved else 1), "stage_widths": groups}
    for name, divisor in {**divisors, "head_dim": groups}.items():
        got = values[f"{network}.{name}"]
        if any(width % divisor for width in (got if isinstance(got, tuple) else (got,))):
            raise UserError(
                f"{network}.{name} must be a multiple of {divisor}, as {network}.norm_groups is "
                f"{groups}, got {got}"
            )
    if values[f"{network}.head_dim"] != values["latent.dim"]:
        raise UserError(
            f"{network}.head_dim must be latent.dim {values['latent.dim']}, "
            f"got {values[f'{network}.head_dim']}"
        )


_NETWORK_CHECKS = {"ncsnpp": _check_resolutions, "resnet": _check_widths}


def _one_line(text: str) -> str:
    return " ".join(text.split())
