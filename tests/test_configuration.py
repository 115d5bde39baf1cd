import ast
import contextlib
import functools
import json
import math
import re
from pathlib import Path

import ml_collections
import pytest
from PIL import Image

from lzn_jax import configuration, parts, schema
from lzn_jax.errors import UserError
from lzn_jax.run import workdir

CONFIGS = Path(__file__).parents[1] / "configs"
DIGITS_JOINT = str(CONFIGS / "digits_joint.py")
JOINT = str(Path(__file__).with_name("ncsnpp_joint.py"))

# The fields of a joint study on digits with NCSN++ networks, written out by group.
JOINT_FIELDS = {
    "": "study seed extensions extension_checksums types alignments objective",
    "data.": """name validation validation_seed image_size channels num_classes flip captions
        invert_input crop_to_ink""",
    "latent.": "enabled dim noise_scale solver num_steps context_size",
    "alignment.": """noise_scale solver num_steps cutoff form weight sharpness""",
    "encoder.": """name patch_size features channel_multipliers num_res_blocks attention_resolutions
        dropout fir progressive_input tap_channels tap_units tap_layers tap_resolutions""",
    "decoder.": """name patch_size features channel_multipliers num_res_blocks attention_resolutions
        dropout fir progressive_input progressive time_embedding fourier_scale scale_by_sigma
        condition condition_dropout sources""",
    "training.": """batch_size queries microbatch_size shard_parameters devices remat num_steps
        decoder_steps warmup_steps
        learning_rate.default learning_rate.encoder learning_rate.decoder
        learning_rate.label_anchors
        schedule optimizer losses gradient_clip ema_decay generation_weight flow_draws compute_dtype
        log_every_steps""",
    "checkpoint.": "every_steps keep",
    "evaluation.": """every_steps figures measurements measurements_of_types num_samples
        inception_path clip_path noise_scales probability_time batch_sizes
        context_sizes""",
    "sampling.": "sampler num_steps",
    "reporting.": "profile_steps wandb_project",
}

NETWORK = "name features channel_multipliers num_res_blocks"
SELECTORS = {
    "study": "joint",
    "data.name": "digits",
    "encoder.name": "ncsnpp",
    "decoder.name": "ncsnpp",
}

# The fields that may be None, with a value for each.
OPTIONAL = {
    "data.invert_input": True,
    "alignment.noise_scale": 0.25,
    "alignment.sharpness": 4.0,
    "training.decoder_steps": 60,
    "training.microbatch_size": 8,
    "training.queries": 8,
    "training.learning_rate.encoder": 0.1,
    "training.learning_rate.decoder": 0.1,
    "training.learning_rate.label_anchors": 0.1,
    "encoder.tap_resolutions": (4,),
    "decoder.condition": "label",
    "evaluation.inception_path": "weights.pth",
    "evaluation.clip_path": "model.safetensors",
    "reporting.profile_steps": "3:5",
    "reporting.wandb_project": "zones",
}


def joint_fields() -> set[str]:
    return {f"{group}{name}" for group, names in JOINT_FIELDS.items() for name in names.split()}


@functools.cache
def held(config=JOINT, *overrides):
    """The values of a config by dotted name."""
    return configuration.flatten(configuration.load(config, overrides).to_dict())


def always_held(values):
    """Fields that each config with these values contains: those of one alignment are not."""
    fields = schema.schema_of(values).items()
    return {name for name, field in fields if field.default is not parts.ABSENT}


def message(path, *overrides):
    with pytest.raises(UserError) as caught:
        configuration.load(str(path), overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def table(text):
    """Rows of a table, with | between cells; a line that begins with blanks goes on."""
    lines = re.sub(r"\n +", " ", text).strip().splitlines()
    return [[cell.strip() for cell in line.split(" | ")] for line in lines]


def pairs(text):
    """Pairs of a table "LEFT: RIGHT; LEFT: RIGHT"."""
    return [entry.strip().split(": ", 1) for entry in text.replace("\n", " ").split(";")]


def config_of(path, *lines):
    """A config file that runs these lines, which define `config`."""
    body = "".join(f"    {line}\n" for line in (*lines, "return config"))
    path.write_text(f"from lzn_jax import configuration\n\ndef get_config():\n{body}")
    return str(path)


def run_of(folder, tree):
    """The folder of a run with this config."""
    (folder / "config.json").write_text(json.dumps(tree))
    return folder


def test_schema_and_config_hold_the_fields_of_a_joint_study():
    assert always_held(SELECTORS) == held().keys() == joint_fields()


def test_configs_are_found_in_any_folder_and_ones_own_come_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("digits_joint", "configs/digits_joint.py"):
        assert configuration.load(path) == configuration.load(DIGITS_JOINT)
    (tmp_path / "configs").mkdir()
    for name, dim in (("digits_joint", 7), ("mine", 8)):
        text = "config = configuration.sibling(__file__, 'digits_text')"
        config_of(tmp_path / "configs" / f"{name}.py", text, f"config.latent.dim = {dim}")
    assert configuration.load("digits_joint").latent.dim == 7
    assert configuration.load("configs/mine.py").latent.dim == 8
    assert configuration.load("mine").text == configuration.load("digits_text").text


NOWHERE = """
digit_joint | there is no config file configs/digit_joint.py; the nearest is .*/digits_joint.py
other/digits_joint.py | there is no config file other/digits_joint.py; the nearest is .*s_joint.py
own/digits_joint | there is no config file own/digits_joint; the nearest is own/digits_joint.py
own/digits_joint.txt | config file own/digits_joint.txt; the nearest is own/digits_joint.py
own/alpha.py | the nearest is own/alpha_gen.py
configs | there is no config file configs
"""


@pytest.mark.parametrize(("path", "expected"), [*table(NOWHERE), ("", "there is no config file")])
def test_a_config_that_is_nowhere_is_named_with_the_nearest(path, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").mkdir()
    for name in ("alpha_gen.py", "digits_joint.py", "digits_joint.txt"):
        (tmp_path / "own" / name).write_text("")
    assert re.search(expected, message(path))


# What makes a joint experiment on digits: fields without a default, and the study.
REQUIRED = {
    "study",
    "data.name",
    "latent.dim",
    "latent.context_size",
    "alignment.num_steps",
    *(f"{network}.{name}" for network in ("encoder", "decoder") for name in NETWORK.split()),
    "training.batch_size",
    "training.num_steps",
    "training.ema_decay",
    "evaluation.every_steps",
    "evaluation.num_samples",
}

# Of fields that came later than the first runs.
DEFAULTS = {
    "alignment.solver": "euler",
    "training.devices": "all",
    "training.remat": False,
    "training.queries": None,
}


def fault(values):
    with pytest.raises(UserError) as caught:
        schema.validated(values)
    return str(caught.value)


@pytest.mark.parametrize("name", sorted(joint_fields()))
def test_a_field_has_a_default_or_must_be_there(name):
    values = {field: value for field, value in held().items() if field != name}
    if name in REQUIRED - {"study"}:  # which decides what fields there are
        assert fault(values).startswith(f"the config lacks the field {name} (")
    elif name != "study":
        found = schema.validated(values)[name]
        default = schema.schema_of(SELECTORS)[name].default
        assert found == DEFAULTS.get(name, default)
        assert type(found) is type(default)  # as it is checked, so is it written


@pytest.mark.parametrize(
    "path", sorted({*CONFIGS.glob("*.py")} - {CONFIGS / "quick.py"}), ids=lambda path: path.stem
)
def test_a_study_is_a_name_for_types_alignments_and_conditions(path):
    values = held(str(path))
    found = schema.validated({n: v for n, v in values.items() if n != "study"})
    assert found == values | {"study": None}


def test_a_config_states_what_it_cannot_do_without_and_leaves_no_empty_group(tmp_path):
    lines = [f"config.{name} = {held()[name]!r}" for name in sorted(REQUIRED)]
    path = config_of(tmp_path / "short.py", "config = configuration.blank()", *lines)
    assert held(path).keys() == joint_fields()


def test_a_run_older_than_a_field_goes_on_with_its_default(tmp_path):
    config = configuration.load(JOINT, [f"{n}={v}" for n, v in DEFAULTS.items()])
    tree = configuration.to_json_dict(config)
    for name in DEFAULTS:
        group, _, field = name.partition(".")
        del tree[group][field]
    assert configuration.load_run(run_of(tmp_path, tree)) == config
    workdir.check_same_run(config, tmp_path)


def test_the_config_of_a_run_names_its_own_tokenizer_and_takes_overrides(tmp_path):
    fields = ["data.tokenizer_path=elsewhere.json", "text.alphabet=None", "latent.dim=3"]
    tree = configuration.to_json_dict(configuration.load("digits_text", fields))
    config = configuration.load_run(run_of(tmp_path, tree), ["sampling.num_steps=7"])
    assert config.data.tokenizer_path == str(tmp_path / "tokenizer.json")
    assert (config.latent.dim, config.sampling.num_steps) == (3, 7)
    with pytest.raises(UserError, match=r"^sampling.num_steps must be an integer >= 1, got 0$"):
        configuration.load_run(tmp_path, ["sampling.num_steps=0"])


@pytest.mark.parametrize("selector", ["data.name", "encoder.name", "decoder.name"])
def test_networks_and_source_bring_their_own_fields(selector):
    values = SELECTORS | {selector: "another"}
    group = selector.partition(".")[0]
    kept = "data.validation data.validation_seed data.num_classes data.invert_input "
    kept += "decoder.condition decoder.condition_dropout decoder.sources"
    groups = (f"{group}.", "sampling.") if group == "decoder" else f"{group}."  # of a flow
    gone = {name for name in joint_fields() if name.startswith(groups)} - {selector, *kept.split()}
    assert always_held(values) == joint_fields() - gone


ACCEPTED = """
seed=0: 0; seed=4294967295: 4294967295; data.flip=True: True; data.flip=true: True;
latent.enabled=False: False; latent.enabled=false: False; latent.dim=1: 1;
latent.noise_scale=0: 0.0; latent.solver=dpm: 'dpm'; latent.context_size=0: 0;
alignment.cutoff=0: 0.0; alignment.cutoff=0.9999999999999999: 0.9999999999999999;
alignment.form=prob: 'prob'; alignment.noise_scale=2: 2.0; encoder.features=4: 4;
encoder.channel_multipliers=(1,2,2,4): (1, 2, 2, 4); encoder.channel_multipliers=1,2: (1, 2);
encoder.channel_multipliers=[3, 1]: (3, 1); encoder.channel_multipliers=2: (2,);
encoder.attention_resolutions=(): (); encoder.attention_resolutions=8,4: (8, 4);
encoder.tap_layers=2: 2; encoder.tap_resolutions=none: None; decoder.dropout=0.5: 0.5;
decoder.progressive=none: 'none'; decoder.fourier_scale=16: 16.0; training.decoder_steps=1: 1;
training.learning_rate.encoder=1e-3: 1e-3; training.warmup_steps=0: 0; training.ema_decay=0: 0.0;
training.compute_dtype=bfloat16: 'bfloat16'; training.devices=all: 'all';
training.devices=dividing: 'dividing'; training.devices=1: 1; training.devices=6: 6;
evaluation.noise_scales=(0,0.2,1): (0.0, 0.2, 1.0); evaluation.noise_scales=0.5: (0.5,);
evaluation.noise_scales=1: (1.0,); evaluation.noise_scales=[]: ();
evaluation.batch_sizes=36,1: (36, 1); training.microbatch_size=64: 64; latent.num_steps=2: 2
"""


@pytest.mark.parametrize(("override", "value"), pairs(ACCEPTED))
def test_an_override_sets_its_field_in_the_fields_type(override, value):
    name, value = override.partition("=")[0], ast.literal_eval(value)
    after = held(JOINT, override)
    assert after == held() | {name: value}
    assert type(after[name]) is type(value)
    if isinstance(value, tuple):
        assert list(map(type, after[name])) == list(map(type, value))


@pytest.mark.parametrize("name", sorted(OPTIONAL))
def test_an_optional_field_goes_to_a_value_and_to_none(name):
    for start in (None, OPTIONAL[name]):
        assert schema.validated(held() | {name: start})[name] == start
    overrides = [f"{name}=None", f"{name}={OPTIONAL[name]}"]  # the later one wins
    assert held(JOINT, *overrides)[name] == OPTIONAL[name]
    assert held(JOINT, *overrides[::-1])[name] is None


@pytest.mark.parametrize("name", sorted(joint_fields() - set(OPTIONAL) - {"study"}))
def test_no_other_field_takes_none(name):
    assert message(JOINT, f"{name}=None").startswith(f"{name} must be ")


# What a field must be, and overrides that it refuses; a line that begins with blanks goes on.
REFUSED = """
must be one of 'alone', 'generation', 'joint', 'pairs', 'representation', 'text' or None |
    study=Joint
must be one of 'adams', 'dpm', 'euler' | latent.solver=3 latent.solver=heun
must be one of 'arrays', 'cifar10', 'digits', 'fashion', 'huggingface', | data.name=mnist
must be one of 'mlp', 'ncsnpp', 'resnet' | encoder.name=vit
must be one of 'none', 'output_skip' | decoder.progressive=input_skip
must be one of 'float32', 'bfloat16' | training.compute_dtype=float16
must be one of 'rk45', 'euler' | sampling.sampler=dpm
must be 8 | data.image_size=16
must be 1 | data.channels=3 data.channels=True
must be 10 | data.num_classes=9
must be True or False | data.flip=1 latent.enabled=no
must be an integer >= 0 and < 4294967296 | seed=-1 seed=4294967296
must be an integer >= 0 | latent.context_size=-1
must be an integer >= 1 | latent.dim=0 latent.dim=32.0 latent.dim=True training.batch_size=abc
    training.batch_size= training.batch_size=2**8
must be an integer >= 1 or None | training.decoder_steps=0
must be an integer >= 1 or 'all' or 'dividing' | training.devices=some training.devices=0
    training.devices=1.5 training.devices=None
must be an integer >= 2 | encoder.tap_layers=1
must be an integer >= 4 and a multiple of 4 | encoder.features=30 encoder.features=0
must be a finite number >= 0 | latent.noise_scale=-0.1 latent.noise_scale=nan
    latent.noise_scale=1e999 latent.noise_scale=HUGE latent.noise_scale=True alignment.weight=1+2j
must be a finite number >= 0 or None | alignment.noise_scale=-1
must be a finite number >= 0 and < 1 | alignment.cutoff=1 decoder.dropout=1.0
must be a finite number > 0 | decoder.fourier_scale=0 training.learning_rate.default=0
must be a finite number > 0 or None | training.learning_rate.label_anchors=0
must be a tuple of integers >= 1 | decoder.attention_resolutions=(4.0,)
    decoder.attention_resolutions=True evaluation.batch_sizes=(0.5,)
must be a non-empty tuple of integers >= 1 | encoder.channel_multipliers=()
    decoder.channel_multipliers=(1,0)
must be a non-empty tuple of integers >= 1 or None | encoder.tap_resolutions=()
must be a tuple of finite numbers >= 0 | evaluation.noise_scales=(0.2,-1)
    evaluation.noise_scales=(0.2,True) evaluation.noise_scales=(1e999,)
must have at most 4 entries, one for each halving of the 8 patches of an image's side and one
    more | encoder.channel_multipliers=(1,1,1,1,1) decoder.channel_multipliers=(1,1,1,1,1)
must divide data.image_size 8 | decoder.patch_size=3
must divide training.batch_size 256 | training.microbatch_size=60
must contain only widths of decoder feature maps, which are 8, 4 |
    decoder.attention_resolutions=[4,16]
must contain only widths of encoder feature maps, which are 8, 4 | encoder.tap_resolutions=2
must be A:B with A < B, for example 100:105 | reporting.profile_steps=5
    reporting.profile_steps=5:5 reporting.profile_steps=6:5 reporting.profile_steps=-1:2
    reporting.profile_steps=a:b reporting.profile_steps=
"""


@pytest.mark.parametrize(
    ("rule", "override"), [(rule, each) for rule, all_ in table(REFUSED) for each in all_.split()]
)
def test_a_bad_override_is_named_with_what_would_be_right(rule, override):
    name, _, text = override.replace("HUGE", str(10**400)).partition("=")
    found = message(JOINT, f"{name}={text}")
    assert found.startswith(f"{name} {rule}")
    values = [text]
    with contextlib.suppress(ValueError, SyntaxError):
        values.append(ast.literal_eval(text))
    values += [tuple(values[1])] if isinstance(values[-1], list) else [(values[-1],)]
    assert found.endswith(tuple(f", got {value!r}" for value in values))


# Overrides that do not go together, or that a config needs more with, and how the error begins.
TOGETHER = """
digits_joint | seed | an override must read FIELD=VALUE, got 'seed'
digits_text | encoder.patch_size=8 | encoder.channel_multipliers must have at most 1 entries,
    one for each halving of the 1 pa
digits_joint | latent.num_steps=2 latent.solver=dpm | latent.num_steps must be an integer >= 3
    with latent.solver 'dpm', got 2
digits_joint | alignment.sharpness=0.0 | alignment.sharpness must be a finite number > 0 or None,
    got 0.0
digits_gen | decoder.scale_by_sigma=True | decoder.scale_by_sigma must be False unless
    decoder.time_embedding is 'fourier'
digits_joint | latent.enabled=False training.generation_weight=0 | training.generation_weight
    must be > 0
digits_joint | alignment.weight=0 training.generation_weight=0 | training.generation_weight must
    be > 0
digits_joint | types=('label',) | must be a tuple of 'label:label', got ('image:label'
digits_joint | types=('image','label','label') | types must differ
digits_joint | alignments=('text:label',) | 'label:label', got ('text:label',)
digits_joint | decoder.condition=text | decoder.condition needs 'text' among types
digits_joint | decoder.sources=('text',) | decoder.sources needs 'text'
digits_text | training.generation_weight=0 | must both be > 0, or both 0 to train
digits_text | training.text_weight=0 | must both be > 0, or both 0 to train
digits_text | data.tokenizer_path=a.json | text.alphabet must be None with data.tokenizer_path
digits_text | latent.enabled=False | latent.enabled must be True with texts
digits_gen | types=('image','text') | lacks the field alignment.num_steps
digits_joint | alignments=('image:label','image:image') | and images the only type
digits_repr | alignment.weight=0 | alignment.weight must be a finite number > 0, got 0
digits_repr | encoder.head_dim=32 | encoder.head_dim must be latent.dim 64, got 32
digits_gen | data.name=image_folder | lacks the field data.path
"""


@pytest.mark.parametrize(("path", "overrides", "expected"), table(TOGETHER))
def test_a_space_that_does_not_hold_together_is_named(path, overrides, expected):
    assert expected in message(path, *overrides.split())


def test_an_override_that_names_a_network_drops_the_fields_of_the_previous_one():
    own = ("features=8", "channel_multipliers=(1,)", "num_res_blocks=1")
    network = ["decoder.name=ncsnpp", *(f"decoder.{field}" for field in own)]
    found = held(DIGITS_JOINT, *network)
    assert found["decoder.features"] == 8
    assert "decoder.num_blocks" not in found
    assert message(DIGITS_JOINT, network[0]).startswith("the config lacks the field decoder.")


@pytest.mark.parametrize(
    "overrides",
    [
        "latent.num_steps=3 latent.solver=dpm",
        "alignment.sharpness=4",
        "decoder.scale_by_sigma=True decoder.time_embedding=fourier",
        "latent.enabled=False",
        "alignment.weight=0",
        "training.generation_weight=0",
        "data.name=image_folder data.path=x data.image_size=8 data.channels=1 data.num_classes=2",
        # Together they are right, in any order.
        "encoder.attention_resolutions=2 encoder.channel_multipliers=1,1,1",
    ],
)
def test_fields_that_go_together_are_checked_after_all_overrides(overrides):
    assert configuration.load(JOINT, overrides.split())


UNKNOWN = """
training.batchsize: training.batch_size; batch_size: training.batch_size;
decoder.feature: decoder.features; encoder.feature: encoder.features;
trainig.num_steps: training.num_steps; algnment.num_steps: alignment.num_steps;
training.lr.decoder: training.learning_rate.decoder; decoder.tap_units: encoder.tap_units;
model.tap_layer: encoder.tap_layers; context_sise: latent.context_size;
training.lr: training.learning_rate.default; lr: training.learning_rate.default;
training.learning_rate: training.learning_rate.default; training.bs: training.batch_size;
training.steps: training.num_steps; training.epochs: training.num_steps;
data.size: data.image_size; data.classes: data.num_classes; latent.alpha: latent.noise_scale;
evaluation.samples: evaluation.num_samples
"""


@pytest.mark.parametrize(("name", "nearest"), pairs(UNKNOWN))
def test_an_unknown_field_is_answered_with_the_nearest(name, nearest):
    answer = f"the config has no field {name}; the nearest is {nearest}"
    assert message(JOINT, f"{name}=1") == answer
    assert fault(held() | {name: 1}) == answer


def folder_of(root, sizes, mode="RGB"):
    """Class folders with an image of each size."""
    for name, shapes in sizes.items():
        (root / name).mkdir(parents=True)
        for index, shape in enumerate(shapes):
            Image.new(mode, shape).save(root / name / f"{index}.png")
    return ["data.name=image_folder", f"data.path={root}"]


def from_folder(path, *overrides):
    loaded = configuration.load(path, overrides)
    config = configuration.flatten(loaded.to_dict())
    names = "data.image_size data.channels data.num_classes data.holdout latent.context_size"
    return [config[name] for name in names.split()]


@pytest.mark.parametrize(
    ("config", "images", "mode", "expected"),
    [
        ("digits_joint", {"a": [(8, 8)] * 12, "b": [(8, 8)] * 8}, "L", [8, 1, 2, 2, 18]),
        # Two levels; three levels, or patches and two; any size.
        ("digits_text", {"a": [(9, 12)] * 12, "b": [(9, 12)] * 8}, "RGB", [10, 3, 2, 2, 18]),
        ("fashion_joint", {"a": [(57, 57)] * 12, "b": [(57, 57)] * 8}, "P", [60, 3, 2, 2, 18]),
        ("digits_alone", {"a": [(9, 9)] * 12, "b": [(9, 9)] * 8}, "LA", [9, 1, 2, 2, 18]),
        ("digits_repr", {"a": [(64, 64)] * 12, "b": [(64, 64)] * 8}, "I;16", [64, 1, 2, 2, 18]),
        ("digits_gen", {"a": [(65, 65)] * 12, "b": [(65, 65)] * 8}, "RGBA", [32, 3, 2, 2, 18]),
        # Of several sizes; one class, and tests.
        ("digits_gen", {"a": [(8, 8), (8, 9)], "b": [(8, 8)] * 3}, "L", [32, 1, 2, 1, 4]),
        ("digits_gen", {"train": [(8, 8)] * 5, "test": [(8, 8)] * 3}, "RGB", [8, 3, 1, None, 5]),
    ],
)
def test_a_folder_says_its_size_colours_and_classes(config, images, mode, expected, tmp_path):
    overrides = folder_of(tmp_path, images, mode)
    assert from_folder(config, *overrides) == expected
    if images.keys() == {"train", "test"}:
        assert from_folder("digits_joint", *overrides) == expected


def test_what_is_asked_of_a_folder_counts(tmp_path):
    overrides = folder_of(tmp_path, {"a": [(8, 8)] * 6, "b": [(8, 8)] * 6})
    given = ["data.image_size=16", "data.channels=1", "data.num_classes=1", "data.holdout=2"]
    given += ["latent.context_size=11"]  # an error of training, as of other data
    assert from_folder("digits_gen", *overrides, *given) == [16, 1, 1, 2, 11]
    assert from_folder("digits_gen", *overrides, "data.image_size=None")[0] == 8
    assert from_folder("digits_gen", *overrides, "data.holdout=12")[3] == 12  # an error when read
    expected = "data.image_size must be an integer >= 1 and <= 4096 or None, got 120000"
    assert message("digits_gen", *overrides, "data.image_size=120000") == expected
    lines = (
        "config = configuration.sibling(__file__, 'digits_gen')",
        f"config.data.name, config.data.path = 'image_folder', {str(tmp_path)!r}",
        "config.data.channels = 1",
    )
    own = config_of(tmp_path / "own.py", *lines)  # which says what it says of its own folder
    assert from_folder(own) == [8, 1, 2, 1, 1437]
    Image.new("RGB", (8, 9)).save(tmp_path / "a" / "9.png")
    (tmp_path / "a" / "broken.png").write_text("no image")
    assert from_folder("digits_gen", *overrides)[:3] == [32, 3, 2]


def test_pairs_without_a_test_folder_hold_out_a_tenth(tmp_path):
    overrides = [*folder_of(tmp_path, {"a": [(32, 32)] * 40}), "data.captions=True"]
    overrides += ["types=('image','text')", "alignments=('image:text',)", "study=None"]
    assert from_folder("digits_text", *overrides)[3] == 4


def test_numbers_of_images_are_at_most_those_that_there_are(tmp_path, caplog):
    overrides = folder_of(tmp_path, {"a": [(8, 8)] * 100, "b": [(8, 8)] * 200})
    with caplog.at_level("INFO", "lzn_jax"):
        config = configuration.load("fashion_joint", overrides)
    assert config.evaluation.num_samples == config.latent.context_size == 270
    assert config.evaluation.context_sizes == (10, 100, 270)
    assert config.evaluation.batch_sizes == (10, 30)
    assert config.training.batch_size == 128
    (line,) = caplog.messages
    assert line.startswith(
        f"from the images in {tmp_path}: image_size=8, channels=3, num_classes=2"
    )
    alone = configuration.load("digits_alone", overrides)
    assert (alone.training.batch_size, alone.training.queries) == (256, 256)


def test_a_folder_is_found_from_where_one_is_and_from_home(tmp_path, monkeypatch):
    folder_of(tmp_path / "of", {"a": [(8, 8)] * 2})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in ("of", "~/of"):
        overrides = ["data.name=image_folder", f"data.path={path}"]
        config = configuration.load("digits_gen", overrides)
        assert config.data.path == str(tmp_path / "of")
    expected = f"there is no folder {tmp_path / 'off'}: set data.path to the data set's folder"
    assert message("digits_gen", "data.name=image_folder", "data.path=off") == expected


def test_another_data_set_by_name_brings_its_own_fields():
    config = configuration.load("digits_gen", ["data.name=fashion"])
    assert (config.data.image_size, config.data.flip) == (28, False)


def test_an_override_does_not_repair_a_file_and_loading_writes_nothing(tmp_path):
    sibling = f"config = configuration.sibling({DIGITS_JOINT!r}, 'digits_joint')"
    path = config_of(tmp_path / "edited.py", sibling, "del config.latent.dim")
    assert message(path, "latent.dim=1").startswith("the config lacks the field latent.dim (")
    config_of(tmp_path / "edited.py", sibling)
    configuration.load(path, ["seed=1"])
    assert list(tmp_path.iterdir()) == [Path(path)]


def test_the_largest_cutoff_leaves_a_step():
    largest = math.nextafter(1.0, 0.0)
    assert configuration.load(JOINT, [f"alignment.cutoff={largest!r}"])
    assert all(int(largest * num_steps) < num_steps for num_steps in (1, 2, 3, 20, 100, 12345))


IN_A_FILE = """
{'training.batch_size': '256'} | training.batch_size must be an integer >= 1, got '256'
{'encoder': 3} | the config has no field encoder; the nearest is
{'data.name': 'mnist'} | data.name must be one of 'arrays', 'cifar10',
{'decoder.dropout': 1e999} | decoder.dropout must be a finite number >= 0 and < 1, got inf
{'decoder.channel_multipliers': (True, 2)} | decoder.channel_multipliers must be a non-empty tuple
    of integers >= 1, got (True, 2)
{'latent.num_steps': 2, 'latent.solver': 'dpm'} | latent.num_steps must be an integer >= 3 with
    latent.solver 'dpm', got 2
"""


@pytest.mark.parametrize(("values", "expected"), table(IN_A_FILE))
def test_a_bad_value_in_a_file_is_named(values, expected):
    assert fault(held() | ast.literal_eval(values)).startswith(expected)


def test_a_file_may_write_integers_for_floats_and_lists_for_tuples():
    written = {"alignment.weight": 2, "encoder.channel_multipliers": [1, 2, 3]}
    found = schema.validated(held() | written)
    assert type(found["alignment.weight"]) is float
    assert found["alignment.weight"] == 2
    assert found["encoder.channel_multipliers"] == (1, 2, 3)


BROKEN = r"""
def get_config(:\n | the config {path} failed at {path}, line 1: SyntaxError:
def get_config():\n    raise ValueError('two\\nlines') | the config {path} failed at {path}, line
    2: ValueError: two lines
import no_such_module\n | the config {path} failed at {path}, line 1: ModuleNotFoundError:
from ml_collections import config_dict as c\ndef get_config():\n    return c.ConfigDict({'seed':
    c.required_placeholder(int)}) | the config {path} failed at ...: RequiredValueError:
config = 1 | {path} must define get_config(), which returns an ml_collections.ConfigDict
get_config = 1 | {path} must define get_config()
def get_config(): return {'seed': 0} | {path} must define get_config()
def get_config(): pass | {path} must define get_config()
"""


@pytest.mark.parametrize(("source", "expected"), table(BROKEN))
def test_a_file_that_gives_no_config_is_named(tmp_path, source, expected):
    path = tmp_path / "broken.py"
    path.write_text(source.encode().decode("unicode_escape"))
    start, _, reason = expected.format(path=path).partition("...")
    found = message(path)
    assert found.startswith(start)
    assert reason in found


def test_a_loaded_config_cannot_be_changed():
    config = configuration.load(JOINT)
    for group in (config, config.training.learning_rate):
        with pytest.raises(AttributeError, match="immutable"):
            group.seed = 1
    copy = ml_collections.ConfigDict(config.copy_and_resolve_references())
    copy.seed = 1
    assert (copy.seed, config.seed) == (1, 0)


def test_json_holds_plain_values():
    overrides = ["encoder.channel_multipliers=1,2,4", "alignment.noise_scale=None"]
    config = configuration.load(JOINT, overrides)
    tree = configuration.to_json_dict(config)
    assert json.loads(json.dumps(tree)) == tree
    assert tree["encoder"]["channel_multipliers"] == [1, 2, 4]
    assert tree["encoder"]["attention_resolutions"] == []
    assert tree["alignment"]["noise_scale"] is None
    assert tree["training"]["learning_rate"]["encoder"] == config.training.learning_rate.encoder
    assert set(tree) == {group.rstrip(".") for group in JOINT_FIELDS if group} | set(
        JOINT_FIELDS[""].split()
    )
