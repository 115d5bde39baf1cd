"""Released checkpoints to ours: the original's numbers and bits, refusals."""

import functools
import json
import shutil
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
import torch_writer
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict
from PIL import Image

import lzn_jax
from lzn_jax import (
    configuration,
    convert,
    latent_space,
    loading,
    main,
    models,
    torch_files,
    train,
    zoning,
)
from lzn_jax.data import to_uint8
from lzn_jax.data.user_images import find_images
from lzn_jax.decoders import flow
from lzn_jax.decoders.flow import Sampler
from lzn_jax.errors import UserError
from lzn_jax.release import hub
from lzn_jax.release import weights as released
from lzn_jax.release.torch_keys import to_torch
from lzn_jax.run import devices

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden"
FOURIER = GOLDEN / "ckpt_gen_fourier_tiny.pt"
PREFIX = "model.module."


@pytest.fixture(autouse=True)
def in_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


# A checkpoint of case study 1 that the original wrote.


def fourier_values(path="no such folder"):
    """Fields of AFHQ's config for the tiny networks of the original's checkpoint."""
    params = json.loads((GOLDEN / "params.json").read_text())["ckpt_gen_fourier_tiny_io"]["params"]
    model = params["config"]["model"]
    network = {
        "features": model["nf"],
        "channel_multipliers": tuple(model["ch_mult"]),
        "num_res_blocks": model["num_res_blocks"],
        "attention_resolutions": tuple(model["attn_resolutions"]),
    }
    size = params["config"]["data"]["image_size"]
    own = {
        "data": dict(path=str(path), class_name=None, holdout=4, image_size=size, workers=0),
        "latent": dict(dim=params["latent_dim"], context_size=8),
        "encoder": {
            **network,
            "tap_channels": params["num_base_channels"],
            "tap_units": params["num_base_units"],
            "tap_resolutions": tuple(params["latent_transformation_resolutions"]),
        },
        "decoder": network,
        "training": dict(batch_size=4, num_steps=1),
        "evaluation": dict(num_samples=4),
        "sampling": dict(sampler="euler", num_steps=3),
    }
    held = configuration.load(str(ROOT / "configs" / "afhq_cat_gen.py")).to_dict()
    return held | {group: held[group] | fields for group, fields in own.items()}


def nhwc(array):
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array


@functools.cache
def fourier_layouts():
    return convert.network_layouts(ConfigDict(fourier_values()))


@pytest.fixture
def known_layouts(monkeypatch):
    """The networks of the original's checkpoint are traced once for all tests."""
    known = fourier_layouts()
    monkeypatch.setattr(convert, "network_layouts", lambda config: known)


@functools.cache
def released_variables(kind):
    """Weights of the original's checkpoint, or their averages ('ema')."""
    return released.read(FOURIER, fourier_layouts(), ema=kind == "ema").averaged


@functools.cache
class Original:
    """Its numbers, inputs and outputs, and our networks with its weights, all at one dtype."""

    def __init__(self, dtype):
        with np.load(GOLDEN / "ckpt_gen_fourier_tiny_io.npz") as file:
            self.numbers = {name: nhwc(array) for name, array in file.items()}
        built = models.build(ConfigDict(fourier_values()))
        modules = {name: module.clone(dtype=dtype) for name, module in built.items()}
        self.encode = jax.jit(functools.partial(modules["encoder"].apply, train=False))
        decode = functools.partial(modules["decoder"].apply, train=False)
        self.velocity = jax.jit(lambda variables, x_t, t, z: decode(variables, x_t, t, z, None))
        self.variables = {
            kind: jax.tree.map(lambda leaf: leaf.astype(dtype), released_variables(kind))
            for kind in ("raw", "ema")
        }
        self.dtype = dtype

    def input(self, name):
        return self.numbers[name].astype(self.dtype)

    def solve(self, solver, name, start, latents):
        def solution(variables, start, latents):
            velocity = functools.partial(self.velocity, variables)
            return solver(velocity, start, latents, Sampler(name, 10))

        return jax.jit(solution)(self.variables["ema"]["decoder"], start, latents)


@pytest.mark.parametrize("kind", ["raw", "ema"])
def test_networks_equal_the_originals_in_float64(kind):
    with jax.enable_x64(True):
        original = Original(jnp.float64)
        variables = original.variables[kind]
        anchors = original.encode(variables["encoder"], original.input("x"))
        inputs = [original.input(f"dec_{name}")[:2] for name in ("xt", "t", "latent")]
        velocity = original.velocity(variables["decoder"], *inputs)
        for array, name in ((anchors, "encoder"), (velocity, "decoder")):
            expected = original.numbers[f"{kind}_{name}_out_f64"][: len(array)]
            np.testing.assert_allclose(array, expected, rtol=0, atol=1e-9)


def test_latents_images_and_their_inverse_equal_the_originals_in_float64(monkeypatch):
    def steps(step, x, numbers):
        return functools.reduce(lambda x, k: step(x, k)[0], numbers, x), None

    with jax.enable_x64(True):
        original = Original(jnp.float64)
        wanted = original.numbers
        anchors, noise = (original.input(name) for name in ("ema_encoder_out_f64", "eps"))
        found = zoning.compute_latents(anchors, noise, solver=zoning.DPMSolver(20))
        names = ("gen_x0", "gen_eps", "x", "ema_latent_f64")
        start, latents, x, own = (jnp.asarray(original.input(name)[:2]) for name in names)
        velocity = functools.partial(original.velocity, original.variables["ema"]["decoder"])
        # The network is a program, its steps are none.
        monkeypatch.setattr(jax.lax, "scan", steps)
        images = flow.generate(velocity, start, latents, Sampler("euler", 10)).x
        inverse = flow.invert(velocity, x, own, Sampler("euler", 10)).x
        for array, name in ((found, "latent"), (images, "gen_euler10"), (inverse, "inv_euler10")):
            expected = wanted[f"ema_{name}_f64"][: len(array)]
            np.testing.assert_allclose(array, expected, rtol=0, atol=1e-9)
        np.testing.assert_array_equal(to_uint8(images), wanted["ema_gen_euler10_uint8_f64"][:2])


@pytest.mark.slow
def test_adaptive_images_and_their_inverse_are_near_the_originals():
    """The original steps a whole batch at once, we each sample by itself."""
    original = Original(jnp.float32)
    numbers = original.numbers
    start, latents = original.input("gen_x0"), original.input("gen_eps")
    images = original.solve(flow.generate, "rk45", start, latents)
    steps = (np.asarray(images.num_evaluations) - 1) / 6
    assert np.abs(steps - (numbers["ema_gen_rk45_num_solution_points"] - 1)).max() <= 2
    start, latents = original.input("x")[:4], original.input("ema_latent_f32")[:4]
    inverse = original.solve(flow.invert, "rk45", start, latents)
    # Near t = 1e-3 each of the two is off by 1.4e-3 at this tolerance of the solver.
    for found, name, atol in ((images.x, "gen", 2e-3), (inverse.x, "inv", 3e-3)):
        for kind in ("rk45", "rk45_net64"):
            np.testing.assert_allclose(found, numbers[f"ema_{name}_{kind}"], rtol=0, atol=atol)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of 16 noisy images."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(16):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(folder / f"{i}.png")
    return folder


def config_file(path, values):
    path.write_text(
        f"import ml_collections\n\n\ndef get_config():\n"
        f"    return ml_collections.ConfigDict({values!r})\n"
    )
    return path


def run(config, workdir, *flags):
    return convert.main([f"--config={config}", f"--workdir={workdir}", *map(str, flags)])


@pytest.fixture(scope="module")
def converted(tmp_path_factory, images):
    """The original's checkpoint as the folder of a run, and its config."""
    folder = tmp_path_factory.mktemp("converted")
    config = config_file(folder / "config.py", fourier_values(images))
    with pytest.MonkeyPatch.context() as patch, jax.set_mesh(devices.make_mesh(1)):
        known, make = fourier_layouts(), train.make_optimizer
        patch.setattr(convert, "network_layouts", lambda config: known)
        patch.setattr(
            train, "make_optimizer", lambda *a: make(*a)._replace(init=jax.jit(make(*a).init))
        )
        assert run(config, folder / "run", f"--checkpoint={FOURIER}") == 0
    return folder / "run", config


def test_a_converted_checkpoint_has_averages_context_and_iteration(converted):
    trained = lzn_jax.load(converted[0])
    model = trained.model
    assert trained.step == 0
    assert model.context["image"].anchors.shape == (8, 6)
    jax.tree.map(np.testing.assert_array_equal, model.variables, released_variables("ema"))


@pytest.mark.slow
def test_raw_weights_take_the_place_of_the_averages(tmp_path, capsys):
    config = config_file(tmp_path / "config.py", fourier_values())
    assert run(config, tmp_path / "run", f"--checkpoint={FOURIER}", "--raw") == 0
    # Without training images the run has no context anchors, and says so.
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "context" in line]
    assert "no such folder" in line
    assert "--config.latent.context_size=0" in line
    assert "results for an image depend on the others" in line
    assert json.loads((tmp_path / "run" / "config.json").read_text())["latent"]["context_size"] == 0
    changed = configuration.load(str(config), ["latent.context_size=0"])
    model = loading.restore(changed, tmp_path / "run").model
    jax.tree.map(np.testing.assert_array_equal, model.variables, released_variables("raw"))
    assert model.context == {}
    flags = [f"--config={config}", f"--workdir={tmp_path / 'run'}", "--mode=sample"]
    assert main.main([*flags, "--config.latent.context_size=0"]) == 0
    assert main.main(flags) == 2


@pytest.mark.slow
def test_context_anchors_come_from_the_folder_that_is_named(images, tmp_path):
    config = config_file(tmp_path / "config.py", fourier_values())  # which names no data
    flags = [f"--checkpoint={FOURIER}", f"--context={images}"]
    assert run(config, tmp_path / "run", *flags) == 0
    trained = lzn_jax.load(tmp_path / "run")
    pixels = find_images(str(images), trained.config.data)[:]
    all_anchors = np.asarray(trained.anchors(pixels))
    context = np.asarray(trained.model.context["image"].anchors)
    rows = [int(np.argmin(np.linalg.norm(all_anchors - row, axis=1))) for row in context]
    assert len(set(rows)) == len(rows) == 8
    np.testing.assert_allclose(context, all_anchors[rows], atol=1e-5)
    # So an image's latent is its own.
    key = jax.random.key(5)
    np.testing.assert_allclose(
        trained.encode(pixels[:1], key), trained.encode(pixels, key)[:1], atol=1e-4
    )


NO_ANCHORS = "--context needs latents and --config.latent.context_size above 0"
# Flags, and a part of the line. Of 16 training images, a tenth is held out.
REFUSALS = f"""
--config.data.holdout=None --config.latent.context_size=17 | at most 15, the training images of im
--context={{images}} --config.latent.context_size=17 | must be at most 16, the images in
--context={{images}} --config.latent.context_size=0 | {NO_ANCHORS}
--context={{images}}/none | there is no image or folder
--workdir={{workdir}} | already has checkpoints
--released=cifar10_gen | --released: not allowed with argument --checkpoint
"""


@pytest.mark.parametrize(
    ("flags", "message"), [line.split(" | ") for line in REFUSALS.strip().splitlines()]
)
@pytest.mark.usefixtures("known_layouts")
def test_commands_that_cannot_be_carried_out_are_one_line(
    flags, message, converted, images, tmp_path, capsys
):
    workdir, config = converted
    flags = flags.format(images=images, workdir=workdir).split()
    assert run(config, tmp_path / "run", f"--checkpoint={FOURIER}", *flags) == 2
    *_, line = capsys.readouterr().err.splitlines()  # after what follows from the images
    assert line.startswith("error: ")
    assert message in line
    assert not (tmp_path / "run").exists()


# Checkpoints by name, of tiny networks.


@pytest.fixture
def fetched(monkeypatch):
    """The original's tiny checkpoint in the place of AFHQ's, as if it had been downloaded."""
    origin = {"file": hub.FILES["afhq_cat_gen"], "sha256": "0" * 64}
    monkeypatch.setattr(hub, "fetch", lambda name: hub.Fetched(FOURIER, {"name": name, **origin}))
    return {"name": "afhq_cat_gen", **origin}


def test_a_released_checkpoint_is_loaded_by_name_and_converted_once(
    fetched, converted, images, tmp_path, monkeypatch
):
    shipped, current = tmp_path / "shipped", tmp_path / "current"
    shipped.mkdir()
    config_file(shipped / "afhq_cat_gen.py", fourier_values(images))
    monkeypatch.setattr("lzn_jax.configuration.SHIPPED", shipped)
    (current / "configs").mkdir(parents=True)  # a stranger's, which must not run
    (current / "configs" / "afhq_cat_gen.py").write_text("raise SystemExit('ran')")
    monkeypatch.chdir(current)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    done = []

    def convert_once(config, checkpoint, workdir):
        assert config.to_dict() == configuration.load(converted[1]).to_dict()
        done.append((checkpoint, shutil.copytree(converted[0], workdir)))

    monkeypatch.setattr(convert, "convert", convert_once)
    model = lzn_jax.load("released/afhq_cat_gen")
    jax.tree.map(np.testing.assert_array_equal, model.model.variables, released_variables("ema"))
    workdir = tmp_path / "cache" / "lzn_jax" / "released" / "afhq_cat_gen"
    assert json.loads((workdir / "released.json").read_text()) == fetched
    assert convert.released_run("afhq_cat_gen") == workdir
    assert done == [(FOURIER, workdir)]
    with pytest.raises(UserError, match="no released model 'digits_joint': the names are"):
        lzn_jax.load("released/digits_joint")


# Files of the other case studies, of seeded weights.


STUDIES = {  # a config, and changes of it
    "joint": (
        "tests/ncsnpp_joint.py",
        "encoder.attention_resolutions=(8,) decoder.time_embedding=fourier",
    ),
    "repr": (
        "configs/digits_repr.py",
        """encoder.stem=imagenet encoder.stage_sizes=(1,2) encoder.stage_widths=(4,8)
        encoder.stem_width=8 encoder.norm_groups=4 encoder.head_dim=16 encoder.head_layers=2
        latent.dim=16""",
    ),
}


def study_flags(kind, workdir, **changes):
    path, fields = STUDIES[kind]
    own = dict(field.replace(".", "__").split("=") for field in fields.split())
    return small.flags(path, workdir, **small.own_networks(path) | own | changes)


def study_config(kind, **changes):
    config, _, *overrides = study_flags(kind, "unused", **changes)
    fields = [flag.removeprefix("--config.") for flag in overrides]
    return configuration.load(config.removeprefix("--config="), fields)


@functools.cache
def layouts(kind):
    return convert.network_layouts(study_config(kind))


def released_values(kind):
    """What the release's trainer would save: random weights and averages, Adam's state missing."""
    rng = np.random.default_rng(1)
    saved = {"iteration": 1, "epoch": 1, "grad_scalar": {}, "lr_scheduler": {"last_epoch": 1}}
    saved["optimizer"] = torch_writer.View("not there", 0, (6,), (1,))
    for name, layout in layouts(kind).items():
        entry = released.ENTRIES[name]
        shapes = {
            key: to_torch(key, np.broadcast_to(0.0, layout.shapes[path])).shape
            for path, key in layout.keys.items()
        }
        drawn = {key: rng.standard_normal((2, *shape), np.float32) for key, shape in shapes.items()}
        saved[entry] = {PREFIX + key: weight for key, (weight, _) in drawn.items()}
        averages = [average for key, (_, average) in drawn.items() if key != "all_modules.0.W"]
        saved[f"{entry}_ema"] = {"decay": 0.9, "num_updates": 1, "shadow_params": averages}
    return saved


@pytest.fixture(scope="module")
def seeded(tmp_path_factory):
    """A function: seeded weights of a study, and their file."""

    @functools.cache
    def go(kind):
        values, path = released_values(kind), tmp_path_factory.mktemp(kind) / "file.pt"
        torch_writer.write(path, values)
        return values, path

    return go


def converted_study(kind, seeded, workdir):
    """Flags of a run that seeded weights of a study become."""
    flags = study_flags(kind, workdir)
    assert convert.main([*flags, f"--checkpoint={seeded(kind)[1]}"]) == 0
    return flags


@pytest.mark.parametrize("kind", ["joint", "repr"])
def test_variables_have_the_bits_of_the_weights(kind, seeded):
    values, path = seeded(kind)
    for name, layout in layouts(kind).items():
        entry = released.ENTRIES[name]
        for source, ema in ((values[entry], False), (values[f"{entry}_ema"], True)):
            found = released.read(path, layouts(kind), ema=ema).averaged[name]
            wanted = source["shadow_params"] if ema else list(source.values())
            leaves, skipped = flatten_dict(found), "constants" if ema else None
            keys = {leaf: key for leaf, key in layout.keys.items() if leaf[0] != skipped}
            for array, (leaf, key) in zip(wanted, keys.items(), strict=True):
                np.testing.assert_array_equal(array, to_torch(key, leaves[leaf]), strict=True)


@pytest.mark.slow
def test_modes_go_on_from_a_converted_checkpoint(seeded, tmp_path, monkeypatch):
    flags = converted_study("joint", seeded, tmp_path / "run")
    # One space on one device: what a mode has compiled, the next one has, too.
    monkeypatch.setattr(loading, "LatentSpace", functools.cache(latent_space.LatentSpace))
    modes = ("sample", "reconstruct", "interpolate", "embed", "classify")
    with jax.set_mesh(devices.make_mesh(1)):
        assert [main.main([*flags, f"--mode={mode}"]) for mode in modes] == [0] * len(modes)
        small.without_pictures(monkeypatch)
        assert main.main([*flags, "--mode=evaluate"]) == 0
    figures = {f"mode_{mode}" for mode in ("sample", "reconstruct", "embed")}
    figures |= {"interpolation", "predictions"}
    assert {path.stem for path in (tmp_path / "run" / "figures").iterdir()} == figures
    assert len((tmp_path / "run" / "predictions.csv").read_text().splitlines()) == 361
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["step"] == 1
    assert "test_accuracy" in summary  # among context anchors


@pytest.mark.slow
def test_training_goes_on_from_a_converted_checkpoint(seeded, tmp_path, monkeypatch, capsys):
    flags = converted_study("repr", seeded, tmp_path / "run")
    monkeypatch.setattr(train, "_evaluate_once", lambda *_: None)  # for time
    assert main.main(flags) == 0
    assert "from step 1 on" in capsys.readouterr().err
    assert (tmp_path / "run" / "checkpoints" / "2").is_dir()


def test_the_state_of_the_optimizer_is_never_read(seeded):
    with pytest.raises(UserError, match="not there"):
        torch_files.read(seeded("repr")[1])


SHAPE = np.zeros((3, 3), np.float32)
DAMAGE = {  # a place, what stands there (None: nothing), and the content of the line
    "key": (("encoder", f"{PREFIX}all_modules.0.bias"), None, "encoder's .*0.bias is missing"),
    "other key": (("decoder", f"{PREFIX}new"), SHAPE, "decoder's new is unexpected"),
    "prefix": (("encoder", "module.net.weight"), SHAPE, "key module.net.weight, which lacks model"),
    "shape": (
        ("label_anchor", f"{PREFIX}anchor"),
        SHAPE,
        r"label_anchor's anchor has the shape \(3, 3\), not \(10, 4\)",
    ),
    "shape of an average": (
        ("encoder_ema", "shadow_params", 0),
        SHAPE,
        r"encoder_ema's spatial_transformations.0.0.weight has the shape \(3, 3\)",
    ),
    "average": (("decoder_ema", "shadow_params", 3), None, r"\d+ averaged weights for \d+ weights"),
    "order": (("decoder", f"{PREFIX}all_modules.0.W"), "last", "its keys are in another order"),
    "averages": (("encoder_ema",), None, "no averaged weights"),
    "type": (
        ("label_anchor", f"{PREFIX}anchor"),
        np.zeros((10, 4)),
        "label_anchor's anchor is float64, not float32",
    ),
    "value": (("label_anchor", f"{PREFIX}anchor"), 1, "is int, not float32"),
    "entry": (("critic",), {}, "its entry critic is not a network of the config's study"),
    "iteration": (("iteration",), "7", "its iteration is '7'"),
    "network": (("label_anchor",), [], "label_anchor is not a dict"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_file_that_does_not_fit_is_named_in_one_line(name, tmp_path):
    (*place, last), value, message = DAMAGE[name]
    values = released_values("joint")
    inner = functools.reduce(lambda inner, key: inner[key], place, values)
    old = inner.pop(last) if value is None or name == "order" else None
    if value is not None:
        inner[last] = old if name == "order" else value
    torch_writer.write(tmp_path / "file.pt", values)
    with pytest.raises(UserError, match=message) as refusal:
        released.read(tmp_path / "file.pt", layouts("joint"), ema=True)
    assert "\n" not in str(refusal.value)
    assert "file.pt" in str(refusal.value)


def test_networks_of_another_study(tmp_path):
    def layouts_of(**changes):
        return convert.network_layouts(study_config("joint", **changes))

    config, values = study_config("joint"), released_values("joint")
    torch_writer.write(tmp_path / "file.pt", values)
    with pytest.raises(UserError, match="entry encoder is not a network"):
        released.read(tmp_path / "file.pt", layouts_of(latent__enabled=False), ema=True)
    for name in ("label_anchor", "label_anchor_ema"):
        del values[name]
    torch_writer.write(tmp_path / "file.pt", values)
    found = released.read(tmp_path / "file.pt", layouts_of(), ema=True)
    assert set(found.averaged) == {"encoder", "decoder"}
    with pytest.raises(UserError, match="has no label_anchors"):
        convert.convert(config, tmp_path / "file.pt", tmp_path / "run")
    assert not (tmp_path / "run").exists()
    for other in ({"model": {}}, [], SHAPE):
        torch_writer.write(tmp_path / "file.pt", other)
        with pytest.raises(UserError, match="no entry encoder or decoder"):
            released.read(tmp_path / "file.pt", layouts("joint"), ema=True)


def test_networks_that_the_release_does_not_have():
    with pytest.raises(UserError, match="encoder cannot be converted: the release's ResNet"):
        convert.network_layouts(study_config("repr", encoder__stem="small"))


def test_nothing_needs_pytorch():
    assert "torch" not in sys.modules
