"""Arrays of any shape: encoders and flows of one's own, in a space without images."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import pytest
import small
from ml_collections import ConfigDict

import lzn_jax
from lzn_jax import configuration, data, main, parts
from lzn_jax.array_type import ArrayType
from lzn_jax.data_types import DataType, NetworkEncoder
from lzn_jax.decoders.flow import ArrayFlow, Sampler
from lzn_jax.errors import UserError
from lzn_jax.latent_space import LatentSpace
from lzn_jax.models import normal_by_index
from lzn_jax.modes.compile import batch_shapes
from lzn_jax.run import devices

CONFIG = Path(__file__).with_name("vectors_config.py")
KEYS = tuple(jax.random.split(jax.random.key(3), 2))
MEAN, SCALE = np.float32([1.0, -2.0, 0.5]), 0.5
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
    settings = ArrayFlow.settings(NUMBERS)
    made = ArrayFlow("point", Exact(), output="points", shape=(3,), **settings)
    made.sampler = Sampler("rk45", 1)
    return made


def test_the_flow_of_vectors_is_that_between_normal_distributions(decoder):
    variables, index = {"point_decoder": {}}, np.arange(5)

    @jax.jit
    def both_ways(index):
        noise = normal_by_index(KEYS[0], "point_noise", index, (3,))
        found = decoder.generate(variables, KEYS[0], (None, None), index)
        return noise, found, decoder.reconstruct(variables, found["points"], (None, None))

    noise, found, back = jax.device_get(both_ways(index))
    assert found.keys() == {"points", "num_evaluations"}
    np.testing.assert_allclose(found["points"], MEAN + SCALE * noise, atol=5e-3)  # from t = 1e-3
    np.testing.assert_allclose(back["points"], found["points"], atol=5e-3)
    np.testing.assert_allclose(
        back["errors"], np.linalg.norm(back["points"] - found["points"], axis=1), atol=1e-6
    )


@pytest.mark.parametrize("draws", [1, 3])
def test_the_loss_of_the_exact_velocity_is_the_variance_that_no_flow_explains(decoder, draws):
    """The mean of s² / (t² s² + (1 - t)²) over t is π s / 2."""
    decoder.draws = draws
    points = MEAN + SCALE * np.random.default_rng(0).normal(size=(40_000, 3)).astype(np.float32)
    columns = {"flow_noise": np.zeros((len(points) * draws, 3), np.float32)}
    columns["flow_time"] = np.ones(len(points) * draws, np.float32)  # the samples themselves

    @jax.jit
    def losses(batch, columns):
        batches = batch, batch | columns
        return [decoder.loss({"point_decoder": {}}, b, (None, None), KEYS) for b in batches]

    loss, at_the_end = losses({"points": points}, columns)
    assert float(loss) == pytest.approx(np.pi * SCALE / 2, rel=0.02)
    assert float(at_the_end) == pytest.approx(0, abs=1e-6)


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


SERIES = ConfigDict({**NUMBERS, "latent": {"dim": 4, "noise_scale": 0.7}, "seed": 5})
SERIES.series = {"context_size": 2}
MEANS, SCALES = (1.0, -2.0), (0.5, 4.0)  # of two channels
SIX = np.random.default_rng(0).normal(size=(6, 3, 2))


@pytest.fixture
def series():
    networks = {"encoder": object(), "decoder": Exact()}
    return ArrayType(
        "series", (3, 2), config=SERIES, column="times", mean=MEANS, scale=SCALES, **networks
    )


def of_column(values, name="times"):
    return data.Examples(None, np.zeros(len(values), np.int32), more={name: values})


def test_an_array_type_builds_encoder_and_decoder_of_its_networks(series):
    settings = NetworkEncoder.settings(SERIES, "series")
    encoder, decoder, row = series.encoder, series.decoder, ((3, 2), np.float32)
    assert {name: getattr(encoder, name) for name in settings} == settings
    assert (encoder.network, encoder.column) == ("series_encoder", "times")
    assert (encoder.example.shape, encoder.example.dtype) == ((1, 3, 2), np.float32)
    assert (decoder.network, decoder.output, decoder.shape) == ("series_decoder", "times", (3, 2))
    assert isinstance(decoder, ArrayFlow)
    assert isinstance(encoder.example, jax.Array)  # as networks annotate
    assert {n: (a.shape, a.dtype) for n, a in series.column_shapes().items()} == {"times": row}
    ready = ArrayType("other", (1,), config=SERIES, encoder=encoder, decoder=decoder)
    assert (ready.encoder, ready.decoder, ready.column) == (encoder, decoder, "other")
    alone = ArrayType("other", (1,), config=SERIES)
    assert (alone.encoder, alone.decoder) == (None, None)
    fields = [ArrayType.fields("a")["a.context_size"], ArrayType.fields("a", 3)["a.context_size"]]
    assert [(field.kind, field.minimum) for field in fields] == [(int, 0)] * 2
    assert [field.default for field in fields] == [parts.REQUIRED, 3]


def test_networks_read_and_write_arrays_in_units_of_their_mean_and_scale(series):
    examples = of_column(SIX)
    rows = series.columns(examples)["times"]
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows[..., 0], (SIX[..., 0] - 1) / 0.5, rtol=1e-5)
    np.testing.assert_allclose(rows[..., 1], (SIX[..., 1] + 2) / 4, rtol=1e-5)
    np.testing.assert_array_equal(series.encoder.samples(examples), rows)
    np.testing.assert_allclose(series.decoded(jnp.asarray(rows)), SIX, rtol=1e-5, atol=1e-6)
    found = series.sample_format()
    assert (found["shape"], found["mean"], found["scale"]) == ((3, 2), [*MEANS], [*SCALES])
    with pytest.raises(UserError, match=r"no column 'times' in \['x'\]"):
        series.samples(of_column(SIX, "x"))
    with pytest.raises(UserError, match="scale of a must be > 0"):
        ArrayType("a", (2,), config=SERIES, scale=(1.0, 0.0))


def test_networks_of_a_subclass_have_arrays_of_another_shape():
    class Flat(ArrayType):
        def encoded(self, samples):
            return samples.reshape(len(samples), -1)

    flat = Flat("series", (3, 2), config=SERIES, encoder=object(), decoder=Exact())
    shapes = (
        flat.encoder.example.shape[1:],
        flat.decoder.shape,
        flat.column_shapes()["series"].shape,
    )
    assert shapes == ((6,), (6,), (6,))


def with_commas(values):
    return "\n".join(",".join(map(str, row)) for row in values)


FILES = {
    "one.npy": (SIX[0], 1),
    "six.npy": (SIX, 6),
    "six.npz": ({"times": SIX, "labels": np.zeros(6)}, 6),
    "one.csv": (with_commas(SIX[0]), 1),
    "six.csv": (with_commas(SIX.reshape(6, 6)), 6),
}


def write(path, content):
    if isinstance(content, str):
        path.write_text(content)
    elif isinstance(content, dict):
        np.savez(path, **content)
    else:
        np.save(path, content)


@pytest.mark.parametrize("name", FILES)
def test_a_file_contains_one_array_or_several(name, series, tmp_path):
    content, count = FILES[name]
    write(path := tmp_path / name, content)
    arrays, names = series.named(str(path))
    np.testing.assert_allclose(arrays, SIX[:count], rtol=1e-6)
    assert (arrays.dtype, names) == (np.float32, [str(path)] * count)


def test_numbers_are_an_array_and_the_page_reads_no_file(series, tmp_path):
    text = with_commas(SIX[:1].reshape(1, 6))
    for found in (series.named(text)[0], series.written(text)):
        np.testing.assert_allclose(found, SIX[:1], rtol=1e-6)
    write(path := tmp_path / "one.npy", SIX[0])
    with pytest.raises(UserError, match=r"one.npy' is no \.npy, .* or numbers: could not convert"):
        series.written(str(path))
    vector = ArrayType("other", (3,), config=SERIES)
    write(path := tmp_path / "column.csv", "1\n2\n3")
    assert vector.named(str(path))[0].tolist() == vector.parse("1, 2,3").tolist() == [[1, 2, 3]]


BAD = {
    "turned.csv": (with_commas(SIX[0].T), r"each \(3, 2\), got \(2, 3\)"),
    "nan.csv": ("1,2\n3,nan\n5,6", "must be finite"),
    "words.csv": ("a,b\n1,2", "no .npy, .npz, .csv file or numbers: could not convert"),
    "objects.npy": (np.array([{}]), "cannot be loaded when allow_pickle=False"),
    "text.npz": ("text", "text.npz' is no .npy"),
    "others.npz": ({"x": SIX}, "'times is not a file"),
    "texts.npy": (np.full((1, 3, 2), "1"), "must be numbers: Cannot cast"),
    "long.npy": (SIX[:, :2], r"each \(3, 2\), got \(6, 2, 2\)"),
    "none.npy": (SIX[:0], "at least 1, got 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_array_of_the_shape_is_one_line(name, series, tmp_path):
    content, message = BAD[name]
    write(path := tmp_path / name, content)
    with pytest.raises(UserError, match=message) as caught:
        series.named(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "samples", [[[[1.0]], [[1.0, 2.0]]], 5.0, "1", [[1, 2]] * 3, [[[np.inf] * 2] * 3]]
)
def test_samples_of_another_shape_are_one_line(samples, series):
    with pytest.raises(UserError, match="must be"):
        series.checked(samples)


def test_integers_are_numbers(series):
    found = series.checked([[[1, 2]] * 3])
    assert (found.dtype, found.shape) == (np.float32, (1, 3, 2))


def test_an_array_is_shown_as_a_line_of_each_channel(series):
    axis = matplotlib.figure.Figure().subplots()
    samples = np.array([[[1, 2], [3, 4], [-0.123456, 6]], np.zeros((3, 2))])
    shown = series.shown(samples)
    assert (shown.ndim, shown.dtype, len(shown)) == (4, np.uint8, 2)
    assert np.any(shown[0] != shown[1])
    assert series.names(samples) == ["", ""]
    assert series.names(samples) == ["", ""]
    series.draw(samples[0], axis)
    assert [line.get_ydata().tolist() for line in axis.lines] == samples[0].T.tolist()
    series.draw(np.arange(4.0), axis)
    assert axis.lines[2].get_ydata().tolist() == [0, 1, 2, 3]


def test_context_anchors_are_by_default_of_what_the_type_encodes():
    config = small.config(Path(__file__).with_name("tones_config.py"))
    space = LatentSpace(config, devices.make_mesh(1))
    train, tone = data.load(config.data, "train"), space.types["tone"]
    rows = tone.encoder.samples(train)
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, tone.columns(train)["tones"])


def test_columns_have_the_shapes_of_an_example(monkeypatch):
    monkeypatch.delattr("lzn_jax.array_type.ArrayType.column_shapes")
    config = configuration.load(str(CONFIG))
    space = LatentSpace(config, devices.make_mesh(1))
    found = {name: (a.shape, a.dtype) for name, a in batch_shapes(space).items()}
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
    monkeypatch.setattr(ArrayType, "weight", 0.5, raising=False)
    assert space(None).types["vector"].weight == 0.5
    for name in ("label_weight", "image_weight"):
        with pytest.raises(UserError, match=f"no field training.{name}"):
            configuration.load("digits_joint", [f"training.{name}=1"])
    part = parts.PARTS["type", "vector"]
    without = dataclasses.replace(part, value=lambda config: DataType("vector"))
    monkeypatch.setitem(parts.PARTS, ("type", "vector"), without)
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
    assert {n: c.anchors.shape for n, c in model.model.context.items()} == {"vector": (12, 4)}
    vectors = model.translate([0, 1], "label", "vector")
    assert vectors.shape == (2, 3)
    np.testing.assert_array_equal(model.translate([0], "label", "vector"), vectors[:1])
    again = model.reconstruct(vectors, np.array([0, 1]))
    np.testing.assert_allclose(again["vectors"], vectors, atol=1e-3)
    for mode in ("sample", "embed", "classify", "reconstruct", "interpolate", "evaluate"):
        assert main.main([f"--workdir={run}", f"--mode={mode}"]) == 0
    assert np.load(run / "samples.npz")["vectors"].shape == (100, 3)
