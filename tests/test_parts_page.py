"""docs/parts.md: its tables name what is there, its recipe for a backbone runs."""

import dataclasses
import importlib
import inspect
import re
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import lzn_jax
from lzn_jax import parts
from lzn_jax.data_types import DataType, Decoder, Encoder, Invertible, NetworkEncoder
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
    encoder = functions(NetworkEncoder) | functions(Encoder) | {"latents", "transform"}
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
    images = jax.random.normal(jax.random.key(1), (2, 8, 8, 1))
    weights = BACKBONE.init(jax.random.key(0), images, train=False)
    run = types.SimpleNamespace(
        space=types.SimpleNamespace(modules={"encoder": BACKBONE}),
        model=types.SimpleNamespace(variables={"encoder": weights}),
    )
    monkeypatch.setattr(lzn_jax, "load", lambda folder: run)
    parts.names("encoder")  # what ships is there
    monkeypatch.setattr(parts, "PARTS", dict(parts.PARTS))
    (code,) = re.findall(r"```\n(import lzn_jax\n.*?)```", PAGE, re.DOTALL)
    exec(compile(code, "parts.md", "exec"), {"__name__": "recipe"})
    network = parts.get("encoder", "on_backbone")(latent_dim=5)
    variables = network.init(jax.random.key(2), images, train=False)
    assert variables["params"].keys() == {"Dense_0"}
    features = BACKBONE.apply(weights, images, train=False, features="backbone")
    dense = variables["params"]["Dense_0"]
    expected = jnp.dot(features, dense["kernel"]) + dense["bias"]
    np.testing.assert_allclose(network.apply(variables, images, train=True), expected, rtol=1e-5)


def test_a_backbone_can_be_a_submodule():
    class Tuned(nn.Module):
        @nn.compact
        def __call__(self, images, *, train):
            return nn.Dense(5)(BACKBONE.copy()(images, train=train, features="backbone"))

    made = jax.eval_shape(
        lambda: Tuned().init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), train=False)
    )
    assert made["params"].keys() == {"ResNet_0", "Dense_0"}
