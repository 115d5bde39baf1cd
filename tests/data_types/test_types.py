"""What holds of every data type, and what is said of one that breaks a protocol."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from lzn_jax import data, parts
from lzn_jax.data_types import DataType, Decoder, Encoder, Zones
from lzn_jax.data_types.property import MLP, Property
from lzn_jax.errors import UserError
from lzn_jax.latent_space import LatentSpace, Model
from lzn_jax.run import devices
from lzn_jax.trained_model import TrainedModel

KEY = jax.random.key(2)


@functools.cache
def model_of(name):
    """A model of random networks, and the test examples."""
    space = LatentSpace(small.config(f"configs/{name}.py"), devices.inference_mesh())
    variables, (train, test) = small.random_variables(space), data.load_data(space.config)
    return TrainedModel(space, Model(variables, space.context(variables, train)), 0), test


@pytest.mark.parametrize(
    ("config", "source", "target"),
    [
        ("digits_text", "image", "text"),
        ("digits_text", "text", "image"),
        ("digits_text", "text", "label"),
        ("digits_property", "image", "property"),
        ("digits_property", "property", "image"),
    ],
)
def test_one_sample_alone_gives_what_it_gives_among_others(config, source, target):
    model, test = model_of(config)
    samples = model.space.types[source].samples(test)[:6]
    centres = model.encode(samples, KEY, 0.0, source=source)
    np.testing.assert_allclose(
        model.encode(samples[:1], KEY, 0.0, source=source), centres[:1], atol=1e-5
    )
    assert (
        np.min(np.abs(centres).max(axis=1)) > 1e-3
    )  # a single zone is the whole space with centre 0
    many, one = (np.array(model.translate(s, source, target)) for s in (samples, samples[:1]))
    if target in ("label", "text"):
        assert one.tolist() == many[:1].tolist()
    else:  # of images grey levels, by rounding
        tolerance = 1 if target == "image" else 1e-4
        np.testing.assert_allclose(one.astype(float), many[:1].astype(float), atol=tolerance)


def lacking(protocol, member, *methods):
    """A part of a type that has all of a protocol but one member."""
    members = {*protocol.__annotations__, *methods} - {member}
    return types.SimpleNamespace(**dict.fromkeys(members, ()))


def mistaken(config, **changes):
    """A numeric property with a mistake."""
    made = Property(config)
    for name, value in changes.items():
        owner, _, attribute = name.rpartition("__")
        setattr(getattr(made, owner) if owner else made, attribute, value)
    return made


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"decoder": lacking(Decoder, "num_draws", "init", "loss", "generate")},
            "the decoder of type 'property' lacks num_draws",
        ),
        (
            {"encoder": lacking(Encoder, "num_draws", "init", "zones", "anchors")},
            "the encoder of type 'property' lacks num_draws",
        ),
        (
            {"decoder__sources": "image"},
            "sources of the decoder of type 'property' must be a tuple of types, got the string",
        ),
        (
            {"decoder__sources": ("property", "sound")},
            "the decoder of type 'property' needs 'sound' among types",
        ),
        (
            {"decoder__condition": "sound"},
            "the decoder of type 'property' needs 'sound' among types",
        ),
        (
            {"encoder__module": MLP(8, 5)},
            r"the encoder of type 'property' must give anchors \(n, 4\), as latent.dim is 4; one "
            r"sample gives \(1, 5\)",
        ),
        ({"name": "number"}, "type 'property' builds a DataType named 'number'"),
    ],
)
def test_a_mistake_of_a_type_is_one_line_before_anything_is_built(changes, message, monkeypatch):
    build = functools.partial(mistaken, **changes)
    part = dataclasses.replace(parts.find("type", "property"), value=build)
    monkeypatch.setitem(parts.PARTS, ("type", "property"), part)
    with pytest.raises(UserError, match=message) as refusal:
        LatentSpace(small.config("configs/digits_property.py"), devices.make_mesh(1))
    assert "\n" not in str(refusal.value)


def test_what_is_no_data_type_is_named(monkeypatch):
    part = dataclasses.replace(parts.find("type", "property"), value=lambda config: "no type")
    monkeypatch.setitem(parts.PARTS, ("type", "property"), part)
    with pytest.raises(
        UserError,
        match=r"type .property. must build a lzn_jax\.data_types\.DataType, got .no type.",
    ):
        LatentSpace(small.config("configs/digits_property.py"), devices.make_mesh(1))


def test_a_condition_is_each_samples_anchor_and_0_where_one_is_missing():
    anchors = jnp.arange(12.0).reshape(6, 2) + 1
    zones = Zones(anchors, jnp.array([0, 2, 4]), is_present=jnp.array([True, False, True]))
    found = DataType("sound").condition({}, zones)  # three of six rows, at even steps
    np.testing.assert_array_equal(found, [[1, 2], [0, 0], [9, 10]])
    np.testing.assert_array_equal(DataType("sound").condition({}, Zones(anchors)), anchors)
    with pytest.raises(UserError, match="no decoder can be conditioned on sound"):
        DataType("sound").condition({}, None)
