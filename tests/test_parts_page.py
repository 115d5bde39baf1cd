"""docs/parts.md: its tables name what is there, its recipes run."""

import dataclasses
import functools
import importlib
import inspect
import re
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from flax import linen as nn

import lzn_jax
from lzn_jax import data, parts, plan, train
from lzn_jax.data_types import (
    DataType,
    Decoder,
    Displayed,
    Encoder,
    Invertible,
    NetworkEncoder,
)
from lzn_jax.models.resnet import ResNet

PAGE = (Path(__file__).parents[1] / "docs" / "parts.md").read_text()
BACKBONE = ResNet(
    stage_sizes=(1,), stage_widths=(4,), stem="small", stem_width=4, norm_groups=2, head_dim=4
)
SETTINGS = {"from_config", "settings", "modules", "anchors_shape", "inputs", "is_present"}


def members(protocol):
    """Names of a table's first column."""
    (table,) = re.findall(rf"\| `{protocol}` \|.*\n((?:\|.*\n)+)", PAGE)
    return set(re.findall(r"`(\w+)`", " ".join(row.split("|")[1] for row in table.splitlines())))


def functions(*owners):
    """Public methods of classes."""
    every = {name: value for owner in owners for name, value in vars(owner).items()}
    return {n for n, v in every.items() if callable(v) and not n.startswith("_")}


def test_members_of_types_encoders_and_decoders_are_those_of_the_code():
    assert members("DataType") == functions(DataType) - SETTINGS
    assert members("Displayed") == functions(Displayed)
    encoder = functions(NetworkEncoder) | functions(Encoder) | {"encode", "transform"}
    assert members("Encoder") == encoder - SETTINGS
    assert members("Decoder") == functions(Decoder, Invertible)


def test_functions_and_attributes_of_fields_are_those_of_the_code():
    code = inspect.getsource(parts)
    short_forms = code[code.index("\n# Common fields") : code.index("\nCheck = ")]
    listed = re.search(r"\| `lzn_jax.parts` \| field \|\n((?:\|.*\n)+)", PAGE)[1]
    made = re.findall(r"^(?:def )?(\w+)(?: = functools|\()", short_forms, re.MULTILINE)
    assert re.findall(r"^\| `(\w+)\(", listed, re.MULTILINE) == ["Field", *made]
    listed = re.search(r"\| attribute of `Field` .*\n((?:\|.*\n)+)", PAGE)[1]
    named = re.findall(r"`(\w+)`", " ".join(row.split("|")[1] for row in listed.splitlines()))
    fields = {each.name for each in dataclasses.fields(parts.Field)}
    assert set(named) == fields - {"kind", "help", "default"}


@pytest.mark.parametrize("field", ["flag", "word", "count", "count_or_0", "counts", "words",
                                   "amount", "positive", "share", "share_below_1"])  # fmt: skip
def test_the_default_of_a_field_implies_what_the_page_says(field):
    make = getattr(parts, field)
    assert make("help").default is parts.REQUIRED
    assert not make("help").takes_none
    assert make("help", None).takes_none


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(lzn_jax(?:\.\w+)+)\b", PAGE))))
def test_a_name_of_the_package_is_there(name):
    module, _, attribute = name.rpartition(".")
    if name != "lzn_jax.parts":
        assert hasattr(importlib.import_module(module), attribute)


def test_an_encoder_on_a_backbone_fits_a_linear_map_to_its_features(monkeypatch):
    images = np.random.default_rng(1).standard_normal((2, 8, 8, 1), np.float32)
    init = functools.partial(BACKBONE.init, train=False)
    weights = small.drawn(jax.eval_shape(init, jax.random.key(0), images))
    run = types.SimpleNamespace(
        space=types.SimpleNamespace(modules={"encoder": BACKBONE}),
        model=types.SimpleNamespace(variables={"encoder": weights}),
    )
    monkeypatch.setattr(lzn_jax, "load", lambda folder: run)
    parts.names("encoder")  # what ships is there
    monkeypatch.setattr(parts, "PARTS", dict(parts.PARTS))
    (code,) = re.findall(r"```\n(import lzn_jax\n.*?)```", PAGE, re.DOTALL)
    recipe = types.ModuleType("recipe")
    monkeypatch.setitem(sys.modules, "recipe", recipe)
    exec(compile(code, "parts.md", "exec"), vars(recipe))
    network = parts.get("encoder", "on_backbone")(latent_dim=5)

    @jax.jit
    def computed(key, images):
        variables = network.init(key, images, train=False)
        features = BACKBONE.apply(weights, images, train=False, features="backbone")
        return variables["params"], features, network.apply(variables, images, train=True)

    params, features, found = computed(jax.random.key(2), images)
    assert params.keys() == {"Dense_0"}
    expected = features @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_time_series_of_an_array_type_have_a_loss_and_are_translated(tmp_path, monkeypatch):
    code = re.findall(
        r"```\n((?:import numpy|from lzn_jax import configuration).*?)```", PAGE, re.S
    )
    for name, text in zip(("series.py", "config.py"), code, strict=True):
        (tmp_path / name).write_text(text.replace("MLPDecoder(256, 3)", "MLPDecoder(8, 1)"))
    assert sum(len(text.splitlines()) for text in code) <= 60
    parts.names("type")  # what ships is there
    monkeypatch.setattr(parts, "PARTS", dict(parts.PARTS))
    model = small.World(tmp_path / "config", series__context_size=16).model
    examples = data.load(model.config.data, "train")
    with train.training_batches(model.config, model.space, examples) as batches:
        jax.eval_shape(
            functools.partial(plan.loss, model.space.plan),
            model.model.variables,
            next(batches),
            jax.random.key(0),
        )
    assert {n: c.anchors.shape for n, c in model.model.context.items()} == {"series": (16, 4)}
    series = model.translate([1], "label", "series")
    assert series.shape == (1, 64, 2)
    assert 15 < series.mean() < 25  # of the users' units
    assert model.translations == (("series", "label"), ("label", "series"))


def test_a_backbone_can_be_a_submodule():
    class Tuned(nn.Module):
        @nn.compact
        def __call__(self, images, *, train):
            return nn.Dense(5)(BACKBONE.copy()(images, train=train, features="backbone"))

    made = jax.eval_shape(
        lambda: Tuned().init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), train=False)
    )
    assert made["params"].keys() == {"ResNet_0", "Dense_0"}
