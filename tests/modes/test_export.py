"""--mode=export: programs that run without the package and give what the trained model gives."""

import collections
import contextlib
import dataclasses
import errno
import functools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from safetensors.numpy import load_file

import lzn_jax
from lzn_jax import data, loading
from lzn_jax import main as command_line
from lzn_jax.data_types import Model
from lzn_jax.errors import UserError
from lzn_jax.latent_space import LatentSpace
from lzn_jax.modes import export
from lzn_jax.run import workdir as workdirs
from lzn_jax.run.devices import make_mesh
from lzn_jax.trained_model import TrainedModel

ROOT = Path(__file__).parents[2]
KEY, SEED = jax.random.key(7), np.uint32(7)
SCALE = np.float32(0.5)
COUNT = 5  # samples
JOINT_PROGRAMS = {
    "encode_image", "encode_label", "embed_image", "classify_image", "translate_image_label",
    "translate_label_image", "sample_image",
}  # fmt: skip
RUNS = {  # config, changed fields, all programs
    "joint": ("digits_joint", {}, JOINT_PROGRAMS),
    "batch": ("digits_joint", {"latent__context_size": 0}, JOINT_PROGRAMS),
    "flow": ("digits_joint", {"latent__enabled": False, "sampling__sampler": "rk45"},
             {"sample_image"}),
    "classifier": ("digits_joint", {"training__generation_weight": 0.0},
                   JOINT_PROGRAMS - {"translate_label_image", "sample_image"}),
    "generation": ("digits_gen", {}, {"encode_image", "embed_image", "sample_image"}),
    "alone": ("digits_alone", {}, JOINT_PROGRAMS),
    "narrow": ("digits_gen", {"latent__noise_scale": 0.25},
               {"encode_image", "embed_image", "sample_image"}),
    "representation": ("digits_repr", {}, {"encode_image", "embed_image"}),
    "simclr": ("digits_repr", {"objective": "simclr"}, {"encode_image", "embed_image"}),
    "text": ("digits_text", {"sampling__temperature": 1.0}, JOINT_PROGRAMS | {
             "encode_text", "classify_text", "sample_text", "translate_image_text",
             "translate_label_text", "translate_text_image", "translate_text_label"}),
    "property": ("../examples/property/config", {}, {"encode_image", "encode_property",
                 "embed_image", "translate_image_property", "translate_property_image",
                 "sample_image", "sample_property"}),
}  # fmt: skip
COMPARED = [  # programs of a run, compared with the trained model
    ("joint", "encode_image", "sample_image"),
]
COMPARED_SLOWLY = [
    ("representation", "embed_image"),
    ("joint", "embed_image", "encode_label", "classify_image", "translate_image_label",
     "translate_label_image"),
    ("batch", "encode_image", "classify_image", "translate_image_label"),
    ("generation", "sample_image"),
    ("flow", "sample_image"),
    ("alone", "encode_label", "classify_image", "sample_image"),
    ("text", "sample_text", "sample_image", "encode_text", "classify_text", "translate_text_image",
     "translate_image_text"),
    ("property", "translate_image_property", "encode_property", "translate_property_image",
     "sample_property"),
]  # fmt: skip
# In place of an environment with nothing else installed.
ALONE = """
import sys
installed = {"jax", "jaxlib", "numpy", "safetensors", "flatbuffers"}
installed |= {"ml_dtypes", "opt_einsum", "scipy"} | sys.stdlib_module_names  # what JAX needs
class Installed:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in installed or name[0] == "_":
            return self.finder.find_spec(name, path, target)
sys.meta_path[:] = map(Installed, sys.meta_path)
"""
CALLS = """
import collections
import numpy as np
from jax import export
from safetensors.numpy import load_file
calls, found = collections.defaultdict(dict), {}
weights = load_file("weights.safetensors")
for key, value in np.load(sys.argv[1]).items():
    call, name = key.split("/")
    calls[call][name] = value
for call, inputs in calls.items():
    with open(f"{call.partition('@')[0]}.stablehlo", "rb") as file:
        program = export.deserialize(bytearray(file.read()))
    found |= {f"{call}/{name}": each for name, each in program.call(weights, **inputs).items()}
np.savez(sys.argv[2], **found)
loaded = {name.partition(".")[0] for name in sys.modules}
assert not loaded & {"lzn_jax", "flax", "ml_collections", "diffrax", "equinox"}, loaded
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Function that returns the folder of a run without an export."""
    made = {}

    def folder(name):
        if name not in made:
            config, changes, *_ = RUNS[name]
            made[name] = small.untrained_run(
                tmp_path_factory.mktemp(name),
                small.config(ROOT / f"configs/{config}.py", **changes),
            )
        return made[name]

    return folder


def exported(workdir, *names):
    """`export/` after the mode, which exports these programs alone, to save time."""
    every = export.programs
    with pytest.MonkeyPatch.context() as patch:
        some = lambda trained: {name: every(trained)[name] for name in names}  # noqa: E731
        patch.setattr(export, "programs", some)
        assert command_line.main([f"--workdir={workdir}", "--mode=export"]) == 0
    return workdir / "export"


def example():
    """Code in the docs."""
    text = (ROOT / "docs" / "usage.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return code


@functools.cache
def untrained(name):
    """The model of a run without weights."""
    config, changes, _ = RUNS[name]
    space = LatentSpace(small.config(ROOT / f"configs/{config}.py", **changes), make_mesh(1))
    return TrainedModel(space, Model({}, space.context_shapes()), 2)


@functools.cache
def drawn(name):
    """The model of a run with random weights."""
    model = untrained(name)
    weights = Model(**small.drawn(model.space.model_shapes()))
    return dataclasses.replace(model, model=weights)


@pytest.fixture
def unsaved(tmp_path, monkeypatch):
    """Function that returns the folder of a run whose model is `drawn`, not read."""

    def folder(name):
        monkeypatch.setattr(loading, "restore", lambda *_: drawn(name))
        workdirs.record(drawn(name).config, tmp_path / "run")
        (tmp_path / "run" / "checkpoints" / "2").mkdir(parents=True)
        return tmp_path / "run"

    return folder


def called(folder, calls, code=""):
    """Outputs of calls {PROGRAM@ROWS: inputs} in a process with JAX, NumPy and safetensors alone.

    The code runs before the calls; also returns what it prints.
    """
    inputs, outputs = folder.parent / "inputs.npz", folder.parent / "outputs.npz"
    flat = {f"{call}/{name}": each for call, own in calls.items() for name, each in own.items()}
    np.savez(inputs, **flat)
    command = [sys.executable, "-c", ALONE + code + CALLS, str(inputs), str(outputs)]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    found = collections.defaultdict(dict)
    for key, value in np.load(outputs).items():
        call, name = key.split("/")
        found[call][name] = value
    return found, result.stdout


def deserialized(path):
    return jax.export.deserialize(bytearray(path.read_bytes()))


def samples_of(model, name, count):
    """Test samples of a type."""
    test = data.load(model.config.data, "test")
    return model.space.types[name].samples(test)[:count]


def expected(model, program, count):
    """Inputs of a program, and outputs by the trained model."""
    task, *ends = program.split("_")
    source, target = ends[0], ends[-1]
    drawn = {"index": np.arange(count, dtype=np.int32), "seed": SEED}
    if task == "sample":
        if target == model.main_type and model.class_type:
            labels = samples_of(model, "label", count).astype(np.int32)
            outputs = model.sample(count, KEY, labels).images
            return {"labels": labels, **drawn}, {model.space.types[target].output: outputs}
        return drawn, {model.space.types[target].output: model.generate(target, count, KEY)}
    samples, data_type = samples_of(model, source, count), model.space.types[source]
    given = {data_type.output: data_type.encoded(data_type.checked(samples))}
    if task == "embed":
        outputs = model.embed(samples)
        return given, {n: each for n, each in outputs.items() if not n.startswith("latent")}
    if task == "classify":
        found = model.classify(samples, source=source)
        return given, {"classes": found.classes, "probabilities": found.probabilities}
    given |= {**drawn, "noise_scale": SCALE}
    if task == "encode":
        return given, {"latents": model.encode(samples, KEY, SCALE.item(), source=source)}
    outputs = model.translate(samples, source, target, key=KEY, noise_scale=SCALE.item())
    name = "classes" if target == "label" else model.space.types[target].output
    return given, {name: outputs}


def assert_equal(model, manifest, name, found, wanted):
    """Floats to 1e-6; pixels but for those that fall between two values."""
    if name == "tokens":
        assert model.space.types["text"].decoded(found) == list(wanted)
    elif name == "images":
        assert found.dtype == wanted.dtype == np.uint8
        off = np.abs(found.astype(int) - wanted)
        assert off.max() <= 1
        assert np.mean(off > 0) < 0.01
        assert wanted.std() > 1
    else:
        if name == "properties":
            units = manifest["types"]["property"]
            found = found * units["scale"] + units["centre"]
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


def rows(inputs, index):
    return {name: each[index] if np.ndim(each) else each for name, each in inputs.items()}


SLOW = [pytest.param(case, marks=pytest.mark.slow) for case in COMPARED_SLOWLY]


@pytest.mark.parametrize("case", [*COMPARED, *SLOW], ids=" ".join)
def test_programs_alone_give_what_the_trained_model_gives(runs, case):
    name, *compared = case
    workdir = runs(name)
    folder, model = exported(workdir, *compared), lzn_jax.load(workdir)
    manifest = json.loads((folder / "manifest.json").read_text())
    sizes = {each: manifest["programs"][each]["batch_size"] for each in compared}
    assert set(sizes.values()) == ({15} if name == "batch" else {"any"})
    count = 15 if name == "batch" else COUNT
    pairs = {each: expected(model, each, count) for each in compared}
    takes = {f"{each}@3": np.array([4, 1, 2]) for each in compared}
    if "encode_image@3" in takes:  # another batch size of one program
        takes["encode_image@1"] = np.array([3])
    if name == "batch":
        takes = {f"{each}@15": np.arange(15) for each in compared}
    calls = {call: rows(pairs[call.partition("@")[0]][0], take) for call, take in takes.items()}
    found, printed = called(folder, calls, example() if case in COMPARED else "")
    for call, take in takes.items():
        _, wanted = pairs[call.partition("@")[0]]
        assert wanted.keys() <= found[call].keys()
        for output, values in wanted.items():
            some = [values[row] for row in take]
            assert_equal(model, manifest, output, found[call][output], np.array(some))
    assert printed == ("{'images': (10, 8, 8, 1)}\n" if case in COMPARED else "")


def test_features_of_views_are_those_of_the_trained_model(unsaved):
    folder, model = exported(unsaved("representation"), "embed_image"), drawn("representation")
    given, wanted = expected(model, "embed_image", COUNT)
    program = deserialized(folder / "embed_image.stablehlo")
    found = program.call(load_file(folder / "weights.safetensors"), **given)
    assert found.keys() == wanted.keys()
    for name, each in wanted.items():
        np.testing.assert_allclose(found[name], each, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_latents_of_views_are_those_of_the_anchors_that_the_programs_give(runs):
    # The zones of random networks are narrow here: they multiply the encoder's rounding by 150.
    folder = exported(runs("representation"), "encode_image", "embed_image")
    model = lzn_jax.load(runs("representation"))
    inputs, _ = expected(model, "encode_image", COUNT)
    images = {"images": inputs["images"]}
    found, _ = called(folder, {"encode_image@5": inputs, "embed_image@5": images})
    wanted = model.draw_latents(found["embed_image@5"]["head"], SCALE.item(), KEY)
    latents = found["encode_image@5"]["latents"]
    np.testing.assert_allclose(latents, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", RUNS)
def test_every_task_of_a_run_is_a_program(name):
    found = export.programs(untrained(name))
    assert found.keys() == RUNS[name][2]
    # Without context anchors the images of a batch cut the zones.
    fixed = {"encode_image", "classify_image", "translate_image_label"} if name == "batch" else ()
    assert {task: each.batch_size for task, each in found.items() if each.batch_size} == (
        dict.fromkeys(fixed, 15)
    )


def test_a_program_is_lowered_for_all_platforms_and_calls_nothing_of_this_machine():
    model = drawn("joint")
    program = export.exported_program(export.programs(model)["sample_image"], model.model)
    content = bytes(program.serialize())
    assert program.platforms == ("cpu", "cuda", "tpu")
    text = program.mlir_module()
    # Where JAX has CUDA's kernel of random numbers, the program calls it on that platform.
    targets = set(re.findall(r"custom_call @(\w+)", text))
    assert targets <= {"cu_threefry2x32_ffi", "shape_assertion"}
    assert "_platform_index" in text
    assert not re.findall(rb"\.py\b|site-packages", content)


def test_latents_are_drawn_at_the_noise_scale_of_the_config():
    found = export.programs(untrained("narrow"))
    assert found["encode_image"].scalars["noise_scale"] == 0.25


def test_samples_are_drawn_at_the_noise_scale_of_the_alignment(monkeypatch):
    changes = {"alignment__noise_scale": 0.5, "decoder__condition": None}
    space = LatentSpace(small.config(ROOT / "configs/digits_joint.py", **changes), make_mesh(1))
    found = export.programs(TrainedModel(space, Model({}, {}), 0))
    drawn = []
    monkeypatch.setattr(export.inference, "translate", lambda *a: drawn.append(a[3]) or a[4])
    inputs = {"labels": np.arange(2), "index": np.arange(2), "images": jnp.zeros(2)}
    found["sample_image"].function(Model({}, {}), inputs)
    assert (drawn, found["sample_image"].scalars.keys()) == ([0.5], {"seed"})
    assert found["translate_label_image"].scalars["noise_scale"] == 0.5


@pytest.mark.parametrize("value", [1, 0])
def test_an_export_leaves_the_setting_of_locations_as_it_was(value):
    limit = functools.partial(getattr, jax.config, export._LOCATIONS)
    before, during = limit(), []

    def function(*_):
        during.append(limit())
        return {"inverse": jnp.asarray(1 / value)}

    with contextlib.suppress(ZeroDivisionError):
        export.exported_program(export.Program("", function, {}, {}, 1), Model({}, {}))
    assert (limit(), during) == (before, [0])
    assert before != 0


def test_weights_are_stored_once_with_their_names_and_take_at_least_one_row(unsaved):
    folder, model = exported(unsaved("joint"), "embed_image"), drawn("joint").model
    stored = load_file(folder / "weights.safetensors")
    assert len(stored) == len(jax.tree.leaves(model))
    np.testing.assert_array_equal(stored["context/image/anchors"], model.context["image"].anchors)
    own = model.variables["label_anchors"]["params"]
    (name,) = own
    np.testing.assert_array_equal(stored[f"variables/label_anchors/params/{name}"], own[name])
    program = deserialized(folder / "embed_image.stablehlo")
    with pytest.raises(ValueError, match="Expected value >= 1 for dimension variable 'b'"):
        program.call(stored, images=np.zeros((0, 8, 8, 1), np.uint8))
    with pytest.raises(UserError, match=f"programs of an export: load its run, {folder.parent}$"):
        lzn_jax.load(folder)


def test_the_manifest_names_files_types_and_defaults(unsaved):
    folder, model = exported(unsaved("text"), "encode_text"), drawn("text")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["files"] == sorted(path.name for path in folder.iterdir())
    assert manifest["step"] == 2
    program = manifest["programs"]["encode_text"]
    assert program["platforms"] == manifest["platforms"] == list(export.PLATFORMS)
    assert program["bytes"] == (folder / program["file"]).stat().st_size
    scale = model.config.latent.noise_scale
    assert program["inputs"] == {
        "index": {"dtype": "int32", "shape": ["b"]},
        "noise_scale": {"dtype": "float32", "shape": [], "default": scale},
        "seed": {"dtype": "uint32", "shape": [], "default": model.config.seed},
        "tokens": {"dtype": "int32", "shape": ["b", model.config.text.max_length]},
    }
    assert program["outputs"] == {"latents": {"dtype": "float32", "shape": ["b", 4]}}
    assert manifest["types"]["label"]["names"] == list("0123456789")
    vocabulary = json.loads((folder / manifest["types"]["text"]["vocabulary"]).read_text())
    (tokens,) = model.space.types["text"].encoded(["a bold seven"])
    written = "".join(vocabulary["characters"][token - 1] for token in tokens if token > 0)
    assert written == "a bold seven"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def error_of(capsys, *flags):
    """The one line of a command that ends with code 2."""
    capsys.readouterr()
    assert command_line.main(list(flags)) == 2
    *logged, line = capsys.readouterr().err.strip().splitlines()
    assert not any("error" in each for each in logged)
    return line


@pytest.fixture
def workdir(unsaved, monkeypatch):
    """The folder of a run without an export, whose programs return their input."""
    rows = {"x": jax.ShapeDtypeStruct((), np.float32)}
    programs = {
        name: export.Program(f"{what} of images", lambda _, inputs: inputs, rows, {}, None)
        for name, what in (("encode_image", "latents"), ("embed_image", "features"))
    }
    monkeypatch.setattr(export, "programs", lambda _: programs)
    return unsaved("representation")


def refused(capsys, workdir):
    """What the mode finds in `export/` that no export wrote."""
    line = error_of(capsys, f"--workdir={workdir}", "--mode=export")
    before, found, after = re.split(r" holds (.*), ", line)
    assert before == f"error: {workdir / 'export'}"
    assert after == "not written by --mode=export: move it away"
    return found


def test_an_export_replaces_an_earlier_one_and_nothing_else(workdir, capsys):
    folder = exported(workdir, "embed_image", "encode_image")
    assert exported(workdir, "embed_image") == folder
    assert not (folder / "encode_image.stablehlo").exists()
    assert not list(workdir.glob(".export*"))
    aside, before = workdir.parent, contents(folder)
    (folder / "notes.txt").write_text("mine")
    assert refused(capsys, workdir) == "notes.txt"
    (folder / "notes.txt").rename(aside / "notes.txt")
    weights = folder / "weights.safetensors"
    weights.rename(aside / weights.name)
    weights.mkdir()  # a folder in place of a file of ours
    (weights / "notes.txt").write_text("mine")
    assert refused(capsys, workdir) == weights.name
    assert (weights / "notes.txt").read_text() == "mine"
    shutil.rmtree(weights)
    (aside / weights.name).rename(weights)
    for content in (None, "[" * 100_000, '{"a": ' * 500 + "1" + "}" * 500, "[]"):
        (folder / "manifest.json").unlink()
        if content is not None:
            (folder / "manifest.json").write_text(content)
        assert refused(capsys, workdir) == "no manifest"
        (folder / "manifest.json").write_bytes(before["manifest.json"])
    assert contents(folder) == before
    shutil.rmtree(folder)
    folder.write_text("a file")
    assert refused(capsys, workdir) == "no manifest"
    assert folder.read_text() == "a file"


def test_a_link_to_an_export_is_not_replaced(workdir, tmp_path, capsys):
    folder, elsewhere = exported(workdir, "embed_image"), tmp_path / "elsewhere"
    folder.rename(elsewhere)
    before = contents(elsewhere)
    for place, found in ((elsewhere, "the files of another folder"), ("nowhere", "no manifest")):
        folder.symlink_to(place)
        assert refused(capsys, workdir) == found
        folder.unlink()
    (workdir / ".export.partial").symlink_to(elsewhere)
    line = error_of(capsys, f"--workdir={workdir}", "--mode=export")
    assert "cannot be written (File exists)" in line
    assert contents(elsewhere) == before


def test_a_folder_that_changes_during_an_export_is_not_replaced(workdir, capsys, monkeypatch):
    folder = exported(workdir, "embed_image")

    def change(*_):
        (folder / "notes.txt").write_text("mine")
        return {"programs": {}}

    monkeypatch.setattr(export, "_write_programs", change)
    assert refused(capsys, workdir) == "notes.txt"
    assert (folder / "notes.txt").read_text() == "mine"
    assert (folder / "embed_image.stablehlo").is_file()


def test_one_process_of_several_writes(workdir, monkeypatch):
    monkeypatch.setattr(export.files, "is_writer", lambda: False)
    export.export(lzn_jax.load(workdir), workdir)
    assert not list(workdir.glob("*export*"))


def test_an_interrupted_export_leaves_the_earlier_one(workdir, capsys, monkeypatch):
    (workdir / ".export.partial").mkdir()  # of one that was killed
    (workdir / ".export.partial" / "half.stablehlo").touch()
    folder = exported(workdir, "embed_image")
    before = contents(folder)
    assert "half.stablehlo" not in before
    mode = [f"--workdir={workdir}", "--mode=export"]

    def full(path, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(export.files, "write_bytes", full)
        assert "cannot be written (No space left" in error_of(capsys, *mode)
    monkeypatch.setattr(export, "exported_program", interrupt)
    with pytest.raises(KeyboardInterrupt):
        command_line.main(mode)
    assert contents(folder) == before
    assert not list(workdir.glob(".export*"))


def test_a_task_that_jax_cannot_export_is_left_out(workdir, capsys, monkeypatch):
    possible = export.exported_program

    def with_callback(program, model, refused=("latents of images",)):
        if program.description in refused:
            raise NotImplementedError("multi-platform lowering for python_callback")
        return possible(program, model)

    monkeypatch.setattr(export, "exported_program", with_callback)
    assert command_line.main([f"--workdir={workdir}", "--mode=export"]) == 0
    folder, logged = workdir / "export", capsys.readouterr().err
    reason = "multi-platform lowering for python_callback"
    assert f"encode_image is left out, as JAX cannot export it: {reason}\n" in logged
    assert re.search(r"^export/embed_image.stablehlo: \d+\.\d s, \d+ kB$", logged, re.MULTILINE)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["programs"].keys() == {"embed_image"}
    assert manifest["left_out"] == {"encode_image": reason}
    before = contents(folder)
    every = ("latents of images", "features of images")
    monkeypatch.setattr(export, "exported_program", lambda *a: with_callback(*a, refused=every))
    line = error_of(capsys, f"--workdir={workdir}", "--mode=export")
    assert line.endswith("step 2) has no task that can be exported")
    assert contents(folder) == before
