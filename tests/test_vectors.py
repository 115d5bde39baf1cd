"""Arrays of any shape: encoders and flows of one's own, in a space without images."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from ml_collections import ConfigDict

import lzn_jax
from lzn_jax import configuration, data, main, parts
from lzn_jax.data_types import DataType, NetworkEncoder
from lzn_jax.decoders.flow import ArrayFlow, Sampler
from lzn_jax.errors import UserError
from lzn_jax.latent_space import LatentSpace
from lzn_jax.models import normal_by_index
from lzn_jax.modes.compile import batch_shapes
from lzn_jax.run import devices

CONFIG = Path(__file__).with_name("vectors_config.py")
KEYS = tuple(jax.random.split(jax.random.key(3), 2))
MEAN, SCALE = jnp.array([1.0, -2.0, 0.5]), 0.5
NUMBERS = ConfigDict({"latent": {"noise_scale": 0.7}, "training": {"microbatch_size": None}})


class Exact:
    """Velocity of the flow from N(0, I) to N(MEAN, SCALE²) in vectors."""

    def init(self, key, x, t, latents, condition, *, train):
        return {"params": {"x": x, "t": t}}

    def apply(self, variables, x, t, latents, condition, *, train):
        t = t[:, None]
        gain = (t * SCALE**2 - (1 - t)) / (t**2 * SCALE**2 + (1 - t) ** 2)
        return MEAN + gain * (x - t * MEAN)


@pytest.fixture
def decoder():
    made = ArrayFlow("point", NUMBERS, Exact(), output="points", shape=(3,))
    made.sampler = Sampler("rk45", 1)
    return made


def test_the_flow_of_vectors_is_that_between_normal_distributions(decoder):
    variables, index = {"point_decoder": {}}, jnp.arange(5)
    noise = normal_by_index(KEYS[0], "point_noise", index, (3,))
    found = decoder.generate(variables, KEYS[0], (None, None), index)
    assert found.keys() == {"points", "num_evaluations"}
    np.testing.assert_allclose(found["points"], MEAN + SCALE * noise, atol=5e-3)  # from t = 1e-3
    back = decoder.reconstruct(variables, found["points"], (None, None))
    np.testing.assert_allclose(back["points"], found["points"], atol=5e-3)
    np.testing.assert_allclose(
        back["errors"], jnp.linalg.norm(back["points"] - found["points"], axis=1), atol=1e-6
    )


@pytest.mark.parametrize("draws", [1, 3])
def test_the_loss_of_the_exact_velocity_is_the_variance_that_no_flow_explains(decoder, draws):
    """The mean of s² / (t² s² + (1 - t)²) over t is π s / 2."""
    decoder.draws = draws
    points = MEAN + SCALE * jax.random.normal(KEYS[1], (40_000, 3))
    loss = decoder.loss({"point_decoder": {}}, {"points": points}, (None, None), KEYS)
    assert float(loss) == pytest.approx(np.pi * SCALE / 2, rel=0.02)
    columns = {"flow_noise": jnp.zeros((len(points) * draws, 3))}
    columns["flow_time"] = jnp.ones(len(points) * draws)  # the samples themselves
    loss = decoder.loss({"point_decoder": {}}, {"points": points, **columns}, (None, None), KEYS)
    velocity = MEAN + (points - MEAN)
    assert float(loss) == pytest.approx(float(jnp.mean((velocity - points) ** 2)), abs=1e-6)


def test_a_decoder_of_arrays_has_the_names_and_numbers_of_its_type_and_config(decoder):
    assert (decoder.network, decoder.sources) == ("point_decoder", ("point",))
    assert (decoder.noise_scale, decoder.condition) == (0.7, None)
    first = decoder.init(KEYS[0], (None, None))["params"]
    assert (first["x"].shape, first["t"].shape) == ((1, 3), (1,))


def test_an_encoder_from_a_config_has_its_numbers():
    config = small.config(CONFIG, seed=5, training__microbatch_size=5)
    module, example = object(), jnp.zeros((1, 3))
    others = {"column": "vectors", "example": example, "samples": len, "distinct": True}
    found = NetworkEncoder.from_config("vector", config, module, **others)
    numbers = {"latent_dim": 4, "context_size": 12, "seed": 5, "microbatch_size": 5}
    assert vars(found) == vars(NetworkEncoder("vector", module, **numbers, **others))


def test_context_anchors_are_by_default_of_what_the_type_encodes():
    config = small.config(Path(__file__).with_name("tones_config.py"))
    space = LatentSpace(config, devices.make_mesh(1))
    train, tone = data.load(config.data, "train"), space.types["tone"]
    rows = tone.encoder.samples(train)
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, tone.columns(train)["tones"])


def test_columns_have_the_shapes_of_an_example():
    config = configuration.load(str(CONFIG))
    space = LatentSpace(config, devices.make_mesh(1))
    found = {name: (a.shape, a.dtype) for name, a in batch_shapes(space, config).items()}
    assert found == {"labels": ((8,), np.int32), "vectors": ((8, 3), np.float32)}


def test_a_space_without_images_has_no_fields_of_images():
    fields = configuration.flatten(configuration.load(str(CONFIG)).to_dict())
    of_images = configuration.flatten(configuration.load("digits_joint").to_dict())
    own = {"data.num_classes", *(f for f in fields if f.startswith("training.learning_rate"))}
    gone = """latent.context_size latent.enabled training.flow_draws training.queries
        training.decoder_steps training.generation_weight evaluation.num_samples
        evaluation.inception_path evaluation.clip_path sampling.sampler sampling.num_steps"""
    assert not set(gone.split()) & fields.keys()
    assert set(gone.split()) < of_images.keys()
    assert {"training.learning_rate.default", "training.learning_rate.label_anchors"} < own


def test_a_config_weighs_the_decoder_of_any_type(monkeypatch):
    def space(weight):
        changes = {"training__vector_weight": weight, "alignment__weight": 0 if weight != 0 else 1}
        config = small.config(CONFIG, **changes)
        return LatentSpace(config, devices.make_mesh(1))

    assert configuration.load(str(CONFIG)).training.vector_weight is None
    assert space(0.25).types["vector"].weight == 0.25
    assert not space(0.0).decoders
    monkeypatch.setattr(vector := parts.get("type", "vector"), "weight", 0.5)
    assert space(None).types["vector"].weight == 0.5
    for name in ("label_weight", "image_weight"):
        with pytest.raises(UserError, match=f"no field training.{name}"):
            configuration.load("digits_joint", [f"training.{name}=1"])
    monkeypatch.setattr(vector, "__init__", lambda self, _: DataType.__init__(self, "vector"))
    with pytest.raises(UserError, match="vector_weight needs a decoder of type 'vector'"):
        space(1.0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("vectors")
    with pytest.MonkeyPatch.context() as patch:
        small.without_pictures(patch)
        assert main.main([f"--config={CONFIG}", f"--workdir={workdir}"]) == 0
    return workdir


@pytest.mark.slow
def test_vectors_train_and_every_mode_takes_them(run, monkeypatch):
    small.without_pictures(monkeypatch)
    model = lzn_jax.load(run)
    assert {n: a.shape for n, a in model.model.context.items()} == {"vector_anchors": (12, 4)}
    vectors = model.translate([0, 1], "label", "vector")
    assert vectors.shape == (2, 3)
    np.testing.assert_array_equal(model.translate([0], "label", "vector"), vectors[:1])
    again = model.reconstruct(vectors, np.array([0, 1]))
    np.testing.assert_allclose(again["vectors"], vectors, atol=1e-3)
    for mode in ("sample", "embed", "classify", "reconstruct", "interpolate", "evaluate"):
        assert main.main([f"--workdir={run}", f"--mode={mode}"]) == 0
    assert np.load(run / "samples.npz")["vectors"].shape == (100, 3)
