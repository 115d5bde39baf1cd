"""Every shipped config: what it promises, the paper's numbers, and a run of its own, shrunk."""

import ast
import functools
import importlib
import itertools
import json
import math
import re
import struct
import types
from pathlib import Path

import jax
import numpy as np
import pytest
import small
from PIL import Image

from lzn_jax import configuration, inference, load, plan, train
from lzn_jax import main as command_line
from lzn_jax.data import cifar10, fashion
from lzn_jax.data_types import Model
from lzn_jax.errors import UserError
from lzn_jax.latent_space import LatentSpace
from lzn_jax.modes.compile import batch_shapes
from lzn_jax.run import devices, log

ROOT = Path(__file__).parents[1]
# Without quick, which has no data of its own.
NAMES = sorted({path.stem for path in (ROOT / "configs").glob("*.py")} - {"quick"})
STUDIES = {
    "gen": "generation",
    "meanflow": "generation",
    "alone": "alone",
    "repr": "representation",
    "joint": "joint",
    "text": "text",
}
SECTIONS = {
    "generation": "section 3 and appendix C",
    "alone": "appendix G",
    "representation": "section 4 and appendix D",
    "joint": "section 5 and appendix E",
    "text": "figure 1",
    "pairs": "figure 1",
}
PAIRS = ("image_text", "image_tfds_text")
RETRIEVAL = {f"retrieval_{n}_r{k}" for n in ("image_to_text", "text_to_image") for k in (1, 10)}
METRICS = {
    study: set(names.split())
    for study, names in {
        "generation": "reconstruction_l2",
        "alone": """reconstruction_l2 test_accuracy sample_accuracy
            unconditional_sample_accuracy""",
        "representation": "linear_probe_top1 knn_top1 linear_probe_top1_latent_centre",
        "joint": "reconstruction_l2 test_accuracy sample_accuracy",
        "pairs": "image_to_text_exact image_to_text_words text_to_image_r1 text_to_image_r10",
        "text": """image_to_label_accuracy text_to_label_accuracy sample_accuracy
            image_to_text_exact image_to_text_digit text_to_image_exact text_to_image_lean
            text_well_formed real_image_exact""",
    }.items()
}
METRICS["pairs"] |= RETRIEVAL
METRICS["text"] |= RETRIEVAL

# Numbers of the paper's appendices C.3, D.3 and E.3.
RECIPE = """training.warmup_steps=5000 training.schedule=constant training.gradient_clip=1.0 """
FLOW = "latent.dim=200 latent.noise_scale=1.0 latent.solver=dpm latent.num_steps=20 "
FLOW += f"sampling.sampler=rk45 {RECIPE}"
CIFAR10 = (
    f"{FLOW} training.batch_size=2000 training.ema_decay=0.999999 evaluation.num_samples=50000"
)
LARGE = f"{FLOW} training.batch_size=256 training.learning_rate.decoder=2e-4"
RATE = "training.learning_rate"
PAPER = {
    "cifar10_gen": f"{CIFAR10} training.num_steps=50000 {RATE}.encoder=2.5e-5 {RATE}.decoder=1e-3",
    "afhq_cat_gen": f"""{LARGE} training.num_steps=60000 training.ema_decay=0.999999
        {RATE}.encoder=2e-6 evaluation.num_samples=5120""",
    "celebahq_gen": f"""{LARGE} training.num_steps=350000 training.ema_decay=0.9999
        {RATE}.encoder=4e-6 evaluation.num_samples=29952""",
    "lsun_bedroom_gen": f"""{LARGE} training.num_steps=2050000 training.ema_decay=0.99999
        {RATE}.encoder=2e-6 evaluation.num_samples=29952""",
    "cifar10_joint": f"""{CIFAR10} training.num_steps=200000 training.decoder_steps=60000
        alignment.noise_scale=None alignment.num_steps=100 alignment.cutoff=0.2 alignment.form=prob
        {RATE}.encoder=5e-5 {RATE}.decoder=2e-3 {RATE}.label_anchors=1e-4""",
    "imagenet_repr": f"""{RECIPE} latent.dim=256 latent.noise_scale=0.45 latent.solver=euler
        latent.num_steps=20 alignment.num_steps=20 alignment.cutoff=0.2 alignment.form=log
        training.batch_size=8192 training.num_steps=5000000 training.ema_decay=0.9999
        {RATE}.encoder=8e-4""",
}

SAME_NETWORKS = {
    "celebahq_gen": "afhq_cat_gen",
    "lsun_bedroom_gen": "afhq_cat_gen",
    "imagenet_repr_100ep": "imagenet_repr",
    "imagenet_tfds_repr": "imagenet_repr",
    "image_tfds_text": "image_text",
}
OURS = {"cifar10_alone", "cifar10_meanflow", "image_text"}
FULL_SCALE = sorted(PAPER.keys() | SAME_NETWORKS.keys() | OURS)


@pytest.fixture(autouse=True)
def in_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


def _load(name, *overrides):
    return configuration.load(f"configs/{name}.py", overrides)


def _docstring(name):
    text = ast.get_docstring(ast.parse((ROOT / "configs" / f"{name}.py").read_text()))
    return " ".join(text.split())


@pytest.mark.parametrize("name", NAMES)
def test_a_config_is_valid_and_says_what_it_is_and_how_to_run_it(name):
    study = _load(name).study
    expected = next(STUDIES[word] for word in name.split("_") if word in STUDIES)
    assert study == ("pairs" if name in PAIRS else expected)
    docstring = _docstring(name)
    assert f"python -m lzn_jax.main --config=configs/{name}.py" in docstring
    assert f"paper {SECTIONS[study]}" in docstring
    assert "Expected" in docstring
    assert ("not run by us" in docstring) == (name in FULL_SCALE)


@pytest.mark.parametrize("name", PAPER)
def test_a_full_scale_config_holds_the_numbers_of_the_paper(name):
    assert _load(name, *PAPER[name].split()) == _load(name)


def test_one_hundred_epochs_of_imagenet():
    config, whole = _load("imagenet_repr_100ep"), _load("imagenet_repr")
    training = config.training
    epochs = training.num_steps * training.batch_size / 1_281_167
    assert epochs == pytest.approx(100, abs=0.01)
    assert training.warmup_steps / training.num_steps == pytest.approx(0.1, abs=1e-4)
    for group in ("augmentation", "latent", "alignment"):
        assert config[group] == whole[group]


@pytest.mark.slow
def test_image_text_has_the_numbers_of_parameters_that_its_file_says():
    space = LatentSpace(_load("image_text"), devices.make_mesh(1))
    variables = jax.eval_shape(space.init, jax.random.key(0))
    counts = {
        network: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
        for network, tree in variables.items()
    }
    assert counts == {
        "encoder": 28_223_552,
        "decoder": 90_078_467,
        "text_encoder": 90_221_824,
        "text_decoder": 85_697_537,
    }


@pytest.mark.parametrize("name", SAME_NETWORKS)
def test_configs_of_one_size_share_their_networks(name):
    config, other = _load(name), _load(SAME_NETWORKS[name])
    for group in ("encoder", "decoder", "text_encoder", "text_decoder"):
        assert config.get(group) == other.get(group)
    assert config.latent.dim == other.latent.dim
    assert config.data.image_size == other.data.image_size


# Tiny data in the formats of the real ones.


def _write_fashion(folder, generator):
    for prefix, count in fashion._COUNTS.items():
        images = generator.integers(0, 256, (count, 28, 28), np.uint8)
        arrays = {"images-idx3": images, "labels-idx1": np.arange(count) % 10}
        for kind, values in arrays.items():
            header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
            name = f"{ {'train': 'train', 'test': 't10k'}[prefix] }-{kind}-ubyte"
            (folder / name).write_bytes(header + values.astype(np.uint8).tobytes())


def _write_cifar10(folder, generator):
    for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
        records = generator.integers(0, 256, (cifar10._RECORDS, 3073), np.uint8)
        records[:, 0] = np.arange(len(records)) % 10
        (folder / name).write_bytes(records.tobytes())


def _write_images(folder, generator):
    said = []
    for index in range(24):
        for split in ("train/cat", "train/dog", "val/cat", "val/dog"):
            path = folder / split / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (12, 10, 3), np.uint8)).save(path)
            said.append({"file_name": f"{split}/{index}.png", "text": f"{split[-3:]} {index}"})
    lines = "".join(f"{json.dumps(row)}\n" for row in said)
    (folder / "metadata.jsonl").write_text(lines)


def _write_tfds(folder, generator):
    """Two data sets: `made` has classes, `spoken` two texts an image."""
    pytest.importorskip("tensorflow_datasets", reason="pip install -e '.[tfds]'")
    pytest.importorskip("array_record", reason="pip install -e '.[tfds]'")
    from tfds_writer import prepare

    rows = [(int(level), "RGB", i % 2) for i, level in enumerate(generator.integers(0, 256, 48))]
    prepare(folder, "made", (None, None, 3), {"train": rows, "validation": rows}, ["cat", "dog"])
    texts = {level: [f"{level} of 255", f"grey {level}"] for level, _, _ in rows}
    spoken = {split: rows[:24] for split in ("train", "test")}
    prepare(folder, "spoken", (None, None, 3), spoken, [], texts=texts)


WRITERS = {
    "fashion": _write_fashion,
    "cifar10": _write_cifar10,
    "image_folder": _write_images,
    "tfds": _write_tfds,
}


@pytest.fixture
def data_fields(tmp_path, monkeypatch):
    """A function that makes tiny data for a config and returns the fields that fit them."""
    monkeypatch.setattr(fashion, "_COUNTS", {"train": 40, "test": 20})
    monkeypatch.setattr(cifar10, "_RECORDS", 10)

    def make(name):
        data = _load(name).data
        if data.name == "digits":
            return {}
        folder = tmp_path / "data"
        folder.mkdir()
        WRITERS[data.name](folder, np.random.default_rng(0))
        fields = {"data__path": folder}
        if data.name in ("image_folder", "tfds"):
            fields |= {"data__image_size": 8, "data__workers": 0}
            fields["data__num_classes"] = min(data.num_classes, 2)
        if data.name == "image_folder":
            fields["data__holdout"] = data.holdout and 8
        if data.name == "tfds":
            fields["data__tfds_name"] = "spoken" if data.captions else "made"
        return fields

    return make


def _run(name, workdir, **changes):
    """Trains a shrunk config, checks that its numbers are finite, and returns its summary."""
    config = _load(name)
    for flow in {"latent", "alignment"} & set(config):
        changes = {f"{flow}__solver": config[flow].solver, **changes}
    changes = small.own_networks(f"configs/{name}.py") | changes
    assert command_line.main(small.flags(f"configs/{name}.py", workdir, **changes)) == 0
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert all(math.isfinite(value) for line in lines for value in line.values())
    summary = json.loads((workdir / "summary.json").read_text())
    assert all(math.isfinite(value) for value in summary.values())
    return summary


# test_main trains and evaluates digits_joint, test_fit digits_repr.
@pytest.mark.parametrize("name", small.slow(*NAMES))
def test_a_shrunk_config_trains_and_evaluates(name, data_fields, tmp_path):
    summary = _run(name, tmp_path / "run", **data_fields(name))
    assert summary["step"] == 2
    assert METRICS[_load(name).study] <= summary.keys()


@pytest.mark.parametrize(
    ("classes", "mode", "facts"),
    [(("a", "b", "c"), "L", [28, 1, 3, 54]), (("",), "RGB", [28, 3, 1, 54])],
    ids=["three classes of grey images", "no classes"],
)
def test_quick_takes_a_folder_as_it_is(classes, mode, facts, tmp_path, capsys):
    generator, folder = np.random.default_rng(0), tmp_path / "images"
    for index in range(60):
        path = folder / classes[index % len(classes)] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (26, 26, 3), np.uint8)
        Image.fromarray(pixels).convert(mode).save(path)
    config = configuration.load("quick", [f"data.path={folder}"])
    found = config.data
    assert [
        found.image_size,
        found.channels,
        found.num_classes,
        config.latent.context_size,
    ] == facts

    own = tmp_path / "own.py"
    own.write_text(
        "from lzn_jax import configuration\n"
        "def get_config():\n"
        f"    return configuration.sibling(__file__, 'quick', {{'data.path': {str(folder)!r}}})\n"
    )
    assert command_line.main(small.flags(own, tmp_path / "run")) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert all(math.isfinite(value) for value in summary.values())
    assert METRICS["joint"] - {"sample_accuracy"} <= summary.keys()
    assert ("sample_accuracy" in summary) == (len(classes) > 1)
    said = capsys.readouterr().err
    assert ("one class, so nothing is classified" in said) == (len(classes) == 1)


def test_quick_takes_other_data_by_name():
    config = configuration.load("quick", ["data.name=fashion"])
    assert (config.data.path, config.data.num_classes) == (_load("fashion_joint").data.path, 10)
    expected = "there is no folder .*DIR: set data.path"
    with pytest.raises(UserError, match=expected):
        configuration.load("quick")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits_joint", "digits_gen", "digits_repr", "digits_alone"])
def test_a_shrunk_config_goes_on_as_if_it_had_not_stopped(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train, "_evaluate_once", lambda *_: None)  # for time
    own = {
        "digits_joint": {"encoder__dropout": 0.5},
        "digits_alone": {"decoder__dropout": 0.5, "training__queries": 5},
    }.get(name, {})

    def trained(folder, num_steps):
        changes = {"training__num_steps": num_steps, "training__schedule": "constant", **own}
        flags = small.flags(f"configs/{name}.py", tmp_path / folder, **changes)
        assert command_line.main(flags) == 0
        return capsys.readouterr().err

    assert "from step 0 on" in trained("stopped", 2)
    assert "from step 2 on" in trained("stopped", 3)
    trained("straight", 3)
    stopped, straight = (
        (load(folder).model, log.read_metrics(folder)["loss"][1][-1])
        for folder in (tmp_path / "stopped", tmp_path / "straight")
    )
    jax.tree.map(np.testing.assert_array_equal, stopped, straight)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "baseline"),
    [
        ("celebahq_gen", {"latent__enabled": False, "sampling__sampler": "rk45"}),
        ("cifar10_joint", {"latent__enabled": False}),
        ("fashion_repr", {"objective": "simclr"}),
    ],
)
def test_a_shrunk_baseline_trains_and_evaluates(name, baseline, data_fields, tmp_path):
    summary = _run(name, tmp_path / "run", **data_fields(name), **baseline)
    assert summary["step"] == 2
    assert METRICS[_load(name).study] - {"test_accuracy"} <= summary.keys()
    assert "test_accuracy" not in summary


ZONES_ALONE = {"training__generation_weight": 0, "training__text_weight": 0}
WRITING = {"sample_accuracy", "image_to_text_exact"}
DRAWING = {"sample_accuracy", "reconstruction_l2", "sampling_evaluations"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "changes", "has", "lacks"),
    [
        ("digits_text", {"objective": "infonce"}, RETRIEVAL, {"test_accuracy", *WRITING}),
        ("digits_text", ZONES_ALONE, RETRIEVAL | {"test_accuracy"}, WRITING),
        (
            "digits_joint",
            {"training__generation_weight": 0},
            {"test_accuracy", "test_accuracy_batch"},
            DRAWING,
        ),
    ],
    ids=["baseline of retrieval", "zones alone", "classifier alone"],
)
def test_what_never_trained_is_not_measured(name, changes, has, lacks, tmp_path):
    summary = _run(name, tmp_path / "run", **changes)
    assert summary.keys() >= has
    assert not lacks & summary.keys()
    figures = tmp_path / "run" / "figures"
    assert (figures / "reconstructions.png").exists() == ("reconstruction_l2" in summary)


SPACES = {
    "digits_joint": ("image", "label"),
    "digits_alone": ("image", "label"),
    "digits_gen": ("image",),
    "digits_text": ("image", "label", "text"),
}


def _subsets(names):
    return [s for n in range(len(names) + 1) for s in itertools.combinations(names, n)]


def _refused(name, latents, condition):
    """The field that an error names, or None if the config works."""
    if condition == "image":
        return "decoder.condition must not be"
    if name == "digits_alone" and "label" in latents:  # which has no anchors there
        return "decoder.sources must not name 'label'"
    if not latents and condition is None:
        return "decoder.sources must name a type"
    if not latents and name == "digits_alone":
        return "a one-pass decoder requires decoder.sources"
    return None


def _traced(space, config, target):
    """Shapes of the loss, and of samples of a type from each source, by shapes alone."""
    variables = jax.eval_shape(space.init, jax.random.key(0))
    batch = batch_shapes(space)
    loss, _ = jax.eval_shape(
        functools.partial(plan.loss, space.plan), variables, batch, jax.random.key(0)
    )
    model, output = Model(variables, space.context_shapes()), space.types[target].output
    made = []
    for source in (None, *(n for n in space.types if n != target)):
        request = {"index": jax.ShapeDtypeStruct((4,), np.int32)}
        if source is not None:
            row = space.types[source].encoded_shape()
            request["samples"] = jax.ShapeDtypeStruct((4, *row.shape), row.dtype)
        ends = {"source": source, "target": target}
        call = functools.partial(inference.translate, space, **ends)
        made.append(jax.eval_shape(call, model, jax.random.key(0), 1.0, request)[output].shape)
    return loss.shape, set(made)


CASES = [
    (name, latents, condition)
    for name, of_space in SPACES.items()
    for latents in _subsets(of_space)
    for condition in (None, *of_space)
]
FAST = [("digits_text", latents, "text") for latents in ((), ("image", "label", "text"))]


@pytest.mark.parametrize(
    ("name", "latents", "condition"),
    [case for case in CASES if case[0] != "digits_text" or case in FAST]
    + small.slow(*(case for case in CASES if case[0] == "digits_text" and case not in FAST)),
)
def test_any_sources_and_condition_of_a_decoder_work_or_are_one_line(name, latents, condition):
    changes = {"decoder__sources": latents, "decoder__condition": condition}
    if field := _refused(name, latents, condition):
        with pytest.raises(UserError, match=f"^{re.escape(field)}") as caught:
            small.config(f"configs/{name}.py", **changes)
        assert "\n" not in str(caught.value)
    else:
        config = small.config(f"configs/{name}.py", **changes)
        space = LatentSpace(config, devices.make_mesh(1))
        assert _traced(space, config, "image") == ((), {(4, 8, 8, 1)})


@pytest.mark.parametrize(("condition", "further"), [("label", "further"), (None, None)])
def test_what_inverts_without_latents_gets_none(condition, further):
    decoder = types.SimpleNamespace(sources=(), condition=condition)
    space = types.SimpleNamespace(decoders={"image": decoder})
    model = small.stand_in(
        space=space, model=None, main_type="image", class_type="label", has_latents=True,
        _latents_of=lambda *_: "latents", _checked_labels=lambda *_: np.zeros(2, int),
        _run=lambda *_, **__: ("further", {}),
    )  # fmt: skip
    assert model._condition(np.zeros((2, 8, 8, 1)), [0, 0], None) == (None, further)
    decoder.sources = ("image",)
    assert model._condition(np.zeros((2, 8, 8, 1)), [0, 0], None) == ("latents", further)


# Configs made of others.


def test_a_sibling_is_a_copy_that_may_be_changed():
    first = configuration.sibling("configs/x.py", "digits_gen")
    first.latent.dim = 7
    first.latent.another = 1
    second = configuration.sibling("configs/x.py", "digits_gen")
    assert (second.latent.dim, "another" in second.latent) == (64, False)


def _delta(folder, sibling):
    path = folder / "delta.py"
    path.write_text(
        "from lzn_jax import configuration\n"
        "def get_config():\n"
        f"    return configuration.sibling(__file__, {sibling!r})\n"
    )
    return str(path)


def test_a_sibling_that_is_missing_or_itself_is_refused(tmp_path):
    (tmp_path / "whole.py").write_text("")
    with pytest.raises(UserError, match=r"^there is no config file .*hole\.py; .*whole\.py$"):
        configuration.load(_delta(tmp_path, "hole"))
    with pytest.raises(UserError, match=r"delta\.py.* RecursionError"):
        configuration.load(_delta(tmp_path, "delta"))


@pytest.mark.parametrize("study", ["joint", "gen", "repr", "alone", "text"])
def test_variants_of_evidence_are_configs(study, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.chdir(ROOT)  # extensions are relative to it
    variants = importlib.import_module("evidence").VARIANTS
    assert len(variants) == 5
    flag = "--extensions="
    for overrides in variants[study].values():
        extensions = [text.removeprefix(flag) for text in overrides if text.startswith(flag)]
        fields = [text for text in overrides if not text.startswith(flag)]
        others = {"decoder.name=direct_maps": "fashion_alone"}
        name = next((others[text] for text in fields if text in others), f"digits_{study}")
        configuration.load(f"configs/{name}.py", fields, extensions=extensions)
