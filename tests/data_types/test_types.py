"""What holds of every data type, and what is said of one that breaks a protocol."""

import dataclasses
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from lzn_jax import data, parts
from lzn_jax.data_types import DataType, Decoder, Encoder, Zones
from lzn_jax.errors import UserError
from lzn_jax.latent_space import LatentSpace, Model
from lzn_jax.models.mlp import MLP
from lzn_jax.run import devices
from lzn_jax.trained_model import TrainedModel

KEY = jax.random.key(2)
TONES = Path(__file__).parents[1] / "tones_config.py"


@pytest.fixture(scope="module")
def model_and_test():
    """A model of random networks, and the test examples."""
    space = LatentSpace(small.config("configs/digits_text.py"), devices.inference_mesh())
    variables, (train, test) = small.random_variables(space), data.load_data(space.config)
    return TrainedModel(space, Model(variables, space.context(variables, train)), 0), test


@pytest.mark.parametrize(
    ("source", "target"), [("image", "text"), *small.slow(("text", "image"), ("text", "label"))]
)
def test_one_sample_alone_gives_what_it_gives_among_others(source, target, model_and_test):
    model, test = model_and_test
    samples = model.space.types[source].samples(test)[:6]
    many, one = (model.encode(s, KEY, 0.0, source=source) for s in (samples, samples[:1]))
    np.testing.assert_allclose(one, many[:1], atol=1e-5)
    # A single zone is the whole space with centre 0.
    assert np.min(np.abs(many).max(axis=1)) > 1e-3
    many, one = (np.array(model.translate(s, source, target)) for s in (samples, samples[:1]))
    if target == "image":  # grey levels, by rounding
        np.testing.assert_allclose(one.astype(int), many[:1].astype(int), atol=1)
    else:
        assert one.tolist() == many[:1].tolist()


def lacking(protocol, *methods):
    """A part of a type that has all of a protocol but `num_draws`."""
    members = {*protocol.__annotations__, *methods} - {"num_draws"}
    return types.SimpleNamespace(**dict.fromkeys(members, ()))


MISTAKES = {
    "the decoder of type 'tone' lacks num_draws": (
        {"decoder": lacking(Decoder, "init", "loss", "generate")}
    ),
    "the encoder of type 'tone' lacks num_draws": (
        {"encoder": lacking(Encoder, "init", "zones", "anchors")}
    ),
    "sources of the decoder of type 'tone' must be a tuple of types, got the string 'image'": (
        {"decoder.sources": "image"}
    ),
    "the decoder of type 'tone' needs 'image' among types": {"decoder.sources": ("image",)},
    "the decoder of type 'tone' needs 'smell' among types": {"decoder.condition": "smell"},
    "the encoder of type 'tone' must give anchors (n, 4), as latent.dim is 4; one sample gives "
    "(1, 5)": {"encoder.module": MLP(8, 1, 5, 0.0, jnp.float32)},
    "type 'tone' builds a DataType named 'number'": {"name": "number"},
    "plurals and outputs of types must differ from others: errors, labels, texts, texts, tokens, "
    "tones, weights": {"plural": "texts"},
    "plurals and outputs of types must differ from others: errors, labels, labels, texts, tokens, "
    "tones, weights": {"plural": "labels"},
    "plurals and outputs of types must differ from others: errors, errors, labels, texts, tokens, "
    "tones, weights": {"output": "errors"},
    "type 'tone' must build a lzn_jax.data_types.DataType, got 'no type'": None,
}


@pytest.mark.parametrize("message", MISTAKES)
def test_a_mistake_of_a_type_is_one_line_before_anything_is_built(message, monkeypatch):
    config, changes = small.config(TONES), MISTAKES[message]
    part = parts.find("type", "tone")
    made = "no type" if changes is None else part.value(config)
    for name, value in (changes or {}).items():
        owner, _, attribute = name.rpartition(".")
        setattr(getattr(made, owner) if owner else made, attribute, value)
    changed = dataclasses.replace(part, value=lambda config: made)
    monkeypatch.setitem(parts.PARTS, ("type", "tone"), changed)
    with pytest.raises(UserError) as refusal:
        LatentSpace(config, devices.make_mesh(1))
    assert str(refusal.value) == message


def test_a_type_shows_what_it_draws_and_else_strings():
    class Drawn(DataType):
        def draw(self, sample, axes):
            axes.set_facecolor(sample)

    assert DataType("tone").shown([1, 2]) == ["1", "2"]
    shown = Drawn("tone").shown(["red", "lime"])
    np.testing.assert_array_equal(shown[:, 90, 120], [[255, 0, 0], [0, 255, 0]])
    assert Drawn("tone").names(["red", "lime"]) == ["", ""]


@pytest.mark.parametrize(("name", "plural"), [("tone", "tones"), ("series", "series")])
def test_a_plural_ends_in_one_s(name, plural):
    made = DataType(name)
    assert (made.plural, made.output) == (plural, plural)


def test_a_condition_is_each_samples_anchor_and_0_where_one_is_missing():
    anchors = jnp.arange(12.0).reshape(6, 2) + 1
    zones = Zones(anchors, jnp.array([0, 2, 4]), is_present=jnp.array([True, False, True]))
    found = DataType("tone").condition({}, zones)  # three of six rows, at even steps
    np.testing.assert_array_equal(found, [[1, 2], [0, 0], [9, 10]])
    np.testing.assert_array_equal(DataType("tone").condition({}, Zones(anchors)), anchors)
    with pytest.raises(UserError, match="no decoder can be conditioned on tone"):
        DataType("tone").condition({}, None)
