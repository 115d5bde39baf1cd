"""What holds of every data type, and what is said of one that breaks a protocol."""

import dataclasses
import itertools
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from lzn_jax import parts, zoning
from lzn_jax.data_types import Classifier, DataType, Decoder, Encoder, Model, Zones, context_rows
from lzn_jax.errors import UserError
from lzn_jax.latent_space import LatentSpace
from lzn_jax.models.mlp import MLP
from lzn_jax.run import devices

KEY = jax.random.key(2)
TONES = Path(__file__).parents[1] / "tones_config.py"


@pytest.mark.parametrize(
    ("source", "target"), [("image", "text"), *small.slow(("text", "image"), ("text", "label"))]
)
def test_one_sample_alone_gives_what_it_gives_among_others(source, target):
    world = small.world("digits_text")
    model, (_, test) = world.model, world.digits
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


def test_the_context_is_drawn_of_all_training_examples_by_the_seed():
    rows = [context_rows(seed, 1000, 50) for seed in range(3)]
    for each in rows:
        assert len(set(each.tolist())) == 50
        assert np.all(np.bincount(each // 250, minlength=4) > 4)
    assert not np.array_equal(*rows[:2])
    assert sorted(context_rows(0, 9, 9)) == list(range(9))
    # Another order makes a run that goes on have another context.
    assert context_rows(0, 1000, 5).tolist() == [393, 749, 408, 449, 699]


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
    "decoders and alignments need an encoder network of tone": {
        "encoder": None,
        "decoder.sources": ("label",),
    },
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
    config, changes = small.config(TONES, text_decoder__sources="('text',)"), MISTAKES[message]
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


class OfNumbers(Classifier):
    """Anchors 0 to 4 in the plane; no anchor has class 1."""

    num_classes = 3

    def classes(self, model):
        return model.variables["anchors"], jnp.array([2, 0, 2, 0, 0])


def test_probabilities_of_classes_are_those_before_the_last_step():
    rng = np.random.default_rng(3)
    anchors, latents, num_steps = rng.normal(size=(5, 2)), rng.normal(size=(6, 2)), 4
    x, times = latents, np.linspace(1, 0, num_steps + 1)
    for t, after in itertools.pairwise(times):  # Euler's method; plain.py derives it
        squares = np.sum((x[:, None] - (1 - t) * anchors) ** 2, axis=2)
        weights = np.exp(-squares / (2 * t**2))
        weights /= weights.sum(axis=1, keepdims=True)
        x = after / t * x + (1 - after / t) * weights @ anchors
    expected = np.zeros((6, 3))
    for column, label in enumerate([2, 0, 2, 0, 0]):
        expected[:, label] += weights[:, column]
    probabilities = jax.jit(OfNumbers().class_probabilities, static_argnums=2)
    model = Model({"anchors": np.float32(anchors)}, {})
    found = probabilities(model, np.float32(latents), zoning.Euler(num_steps))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_a_type_that_has_no_condition_is_named_before_training():
    space = LatentSpace(small.config(TONES, tone__condition="tone"), devices.make_mesh(1))
    with pytest.raises(UserError, match=r"^no decoder can be conditioned on tone"):
        jax.eval_shape(space.init, KEY)


def test_a_condition_is_each_samples_anchor_and_0_where_one_is_missing():
    anchors = jnp.arange(12.0).reshape(6, 2) + 1
    zones = Zones(anchors, jnp.array([0, 2, 4]), is_present=jnp.array([True, False, True]))
    found = DataType("tone").condition({}, zones)  # three of six rows, at even steps
    np.testing.assert_array_equal(found, [[1, 2], [0, 0], [9, 10]])
    np.testing.assert_array_equal(DataType("tone").condition({}, Zones(anchors)), anchors)
    with pytest.raises(UserError, match="no decoder can be conditioned on tone"):
        DataType("tone").condition({}, None)
