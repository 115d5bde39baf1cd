"""Parts of one's own: what may be registered, by whom, and what a run keeps of it."""

import functools
import hashlib
import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import lzn_jax
from lzn_jax import configuration, extensions, parts, zoning
from lzn_jax import main as command_line
from lzn_jax.errors import UserError
from lzn_jax.run import workdir as workdirs

ROOT = Path(__file__).parents[1]

# A part of each kind; nothing of it is imported until a run needs it.
OWN = """
import functools

from lzn_jax import parts, zoning


def check(values):
    parts.require(values["own.size"] < values["latent.dim"], "own.size must be below latent.dim")


images = {f"data.{name}": parts.count("of images", 8) for name in ("image_size", "channels")}
images |= {"data.num_classes": parts.count("of classes", 8), "data.own": parts.count("kinds", 3)}
add = functools.partial(parts.add, owner=__name__)
add("type", "own", "own:Type", {"own.size": parts.count("its size", 5)}, check=check)
add("data", "own", parts, images)  # any module
add("encoder", "own", "own:Encoder", {"encoder.own": parts.count("its units", 3)})
add("decoder", "own", ("own:Decoder", "own:Flow"), {"decoder.own": parts.count("layers", 3)})
add("solver", "own", zoning.Euler, {"latent.own": parts.count("its order", 3)})
add("alignment", "own", "own:align", {"alignment.own": parts.count("its rank", 3)})
add("measurement", "own", "own:measure", {"evaluation.own": parts.count("samples", 3)})
add("optimizer", "own", "own:optimize", {".own": parts.count("its memory", 3)})
add("schedule", "own", "own:schedule", {".own": parts.count("its period", 3)})
add("loss", "own", "own:regularise", {".own": parts.count("its power", 3)})
add("figure", "own", "own:draw", {"evaluation.drawn": parts.count("of its panels", 3)})
"""
# What a config says to name the part of each kind, and the field that comes with it.
SELECTED = {
    "type": ("config.types = ('image', 'label', 'own')", "own.size = 5", "its size"),
    "data": ("config.data = {'name': 'own'}", "data.own = 3", "kinds"),
    "encoder": ("config.encoder = {'name': 'own'}", "encoder.own = 3", "its units"),
    "decoder": (
        "config.decoder, config.sampling = {'name': 'own'}, {}",
        "decoder.own = 3",
        "layers",
    ),
    "solver": ("config.latent.solver = 'own'", "latent.own = 3", "its order"),
    "alignment": ("config.alignment.form = 'own'", "alignment.own = 3", "its rank"),
    "measurement": ("config.evaluation.measurements = ('own',)", "evaluation.own = 3", "samples"),
    "optimizer": ("config.training.optimizer = 'own'", "training.own = 3", "its memory"),
    "schedule": ("config.training.schedule = 'own'", "training.own = 3", "its period"),
    "loss": ("config.training.losses = ('own',)", "training.own = 3", "its power"),
    "figure": ("config.evaluation.figures = ('own',)", "evaluation.drawn = 3", "of its panels"),
}


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    """A function that forgets what a test has registered, as a new process would."""
    parts.names("type")  # what ships is there
    shipped = {k: each for k, each in parts.PARTS.items() if str(ROOT / "lzn_jax") in each.file}
    modules = set(sys.modules)

    def forget():
        monkeypatch.setattr(parts, "PARTS", dict(shipped))
        monkeypatch.setattr(extensions, "_EXTENSIONS", {})

    forget()
    yield forget
    for name in set(sys.modules) - modules:
        if name.startswith((extensions._EXTENSION, "own")):
            del sys.modules[name]


@pytest.fixture
def config(tmp_path):
    """A joint study whose extension is beside its config."""
    (tmp_path / "own.py").write_text(OWN)
    return written(tmp_path, "config.extensions = ('own.py',)")


def written(folder, *lines):
    """A config that changes a joint study by these lines."""
    path = folder / "config.py"
    lines = ["config = configuration.sibling(__file__, 'digits_joint')", *lines, "return config"]
    source = "from lzn_jax import configuration\n\ndef get_config():\n"
    path.write_text(source + "".join(f"    {line}\n" for line in lines))
    return str(path)


def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def error(*arguments, load=configuration.load, **options):
    with pytest.raises(UserError) as caught:
        load(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def solver(name, value):
    """The code of a file that registers a solver."""
    return f"from lzn_jax import parts\n\nparts.add('solver', '{name}', {value}, owner=__name__)\n"


def test_a_name_that_is_taken_says_by_whom(tmp_path):
    taken = str(ROOT / "lzn_jax" / "alignments.py")
    expected = f"solver 'euler' is already registered by {taken}: rename yours"
    assert error("solver", "euler", zoning.Euler, load=parts.add) == expected
    assert parts.find("solver", "euler").file == taken
    parts.add("solver", "own", 1, owner=__name__)
    (tmp_path / "own.py").write_text(solver("own", 2))
    expected = f"solver 'own' is already registered by {__file__}: rename yours"
    assert error([str(tmp_path / "own.py")], load=extensions.extend) == expected


def test_parts_are_of_a_kind_and_imported_where_they_are_asked_for():
    for part in (1, 2):  # a file may add its part again
        parts.add("solver", "own", part, owner=__name__)
    assert parts.get("solver", "own") == 2
    expected = f"the kind of a part must be one of {', '.join(parts.KINDS)}, got 'network'"
    assert error("network", "own", None, load=parts.add) == expected
    parts.add("solver", "own", ("json", "json:dumps", json), owner=__name__)
    assert parts.get("solver", "own") == (json, json.dumps, json)
    available = ", ".join(parts.names("solver"))  # other tests may have added some
    assert {"adams", "dpm", "euler"} <= set(available.split(", "))
    expected = f"there is no solver 'owm'; available: {available}"
    assert error("solver", "owm", load=parts.get) == expected


def test_the_owner_of_a_part_is_its_module_unless_another_is_named():
    for part in (error, functools.partial(error), (error, 1), sys.modules[__name__], __name__):
        parts.add("solver", "own", part)
        assert parts.find("solver", "own").file == __file__
    parts.add("solver", "of zoning", zoning.Euler, owner=__name__)
    assert parts.find("solver", "of zoning").file == __file__
    expected = "solver 'own' is of no module that is loaded: pass owner=__name__ to parts.add"
    for part in (1, {}, "no_such_module:part"):
        assert error("solver", "own", part, load=parts.add) == expected


@pytest.mark.parametrize("kind", SELECTED)
@pytest.mark.usefixtures("config")
def test_a_config_names_a_part_of_the_file_beside_it(kind, tmp_path, monkeypatch):
    selection, line, meaning = SELECTED[kind]
    config = written(tmp_path, "config.extensions = ('own.py',)", selection)
    monkeypatch.chdir("/")
    lines = configuration.explain(configuration.load(config)).splitlines()
    (shown,) = [each for each in lines if line in each]
    assert shown.split() == [*line.split(), "#", *meaning.split()]  # the default, without a star
    field = line.split()[0]
    changed = configuration.load(config, [f"{field}=7"])
    assert configuration.flatten(changed.to_dict())[field] == 7
    assert error(config, [f"{field}=0"]) == f"{field} must be an integer >= 1, got 0"


def test_fields_of_a_part_are_checked_together_and_may_depend_on_the_types(config):
    types = "types=('image','label','own')"
    dim = configuration.load(config).latent.dim
    expected = "own.size must be below latent.dim"
    assert error(config, [types, f"own.size={dim}"]) == expected
    assert configuration.load(config, [types, f"own.size={dim - 1}"]).own.size == dim - 1

    def fields(values):
        return {f"latent.of_{name}": parts.count("each", 1) for name in values["types"]}

    parts.add("solver", "each", None, fields, owner=__name__)
    found = configuration.load(config, ["latent.solver=each"]).latent
    assert (found.of_image, found.of_label) == (1, 1)


def test_facts_of_a_data_set_of_ones_own_replace_none_and_bound_numbers(config, caplog):
    asked = []

    def facts(data, names):
        asked.append({*names})
        return {"num_classes": 4, "train": 100, "mean": 0.5}

    shape = {"data.image_size": 8, "data.channels": 1, "data.num_classes": None}
    fields = {n: parts.count("of images", v, from_data=True) for n, v in shape.items()}
    parts.add("data", "told", SimpleNamespace(facts=facts), fields, owner=__name__)
    told = ["data.name=told", "training.microbatch_size=16"]
    with caplog.at_level("INFO", "lzn_jax"):
        found = configuration.load(config, told)
    assert asked == [{"num_classes", "invert_input", "train"}]  # no field is bounded by tests
    assert (found.data.num_classes, found.training.batch_size) == (4, 96)  # a multiple of 16
    assert (found.latent.context_size, found.evaluation.num_samples) == (100, 100)
    (line,) = caplog.messages
    assert line.startswith("from the images in memory: num_classes=4, training.batch_size=96, ")
    stated = configuration.load(config, [*told, "training.batch_size=256"]).training
    assert stated.batch_size == 256
    with pytest.raises(UserError, match=r"training\.microbatch_size must divide training\.batch_"):
        configuration.load(config, [*told, "training.batch_size=100"])


def test_an_extension_brings_its_group_and_needs_no_other_file(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    lines = "config.types = ('image', 'label', 'own')", "config.own = {'size': 6}"
    found = configuration.load(written(tmp_path, *lines), extensions=[str(tmp_path / "own.py")])
    assert found.own.size == 6
    assert found.extensions == ("own.py",)
    assert found.extension_checksums == (sha256(tmp_path / "own.py"),)
    assert extensions.extension_flags(found.extensions) == [f"--extensions={tmp_path / 'own.py'}"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("\n\nraise ValueError('two\\nlines')\n", "line 3: ValueError: two lines"),
        ("def broken(:\n", "line 1: SyntaxError: "),
        ("\nimport no_such_module\n", "line 2: ModuleNotFoundError: "),
        ("import json\n\njson.loads('{')\n", "line 3: JSONDecodeError: "),
    ],
)
def test_an_extension_that_fails_is_one_line_with_its_file_and_line(tmp_path, content, expected):
    (tmp_path / "own.py").write_text(content)
    found = error(["own.py"], tmp_path, load=extensions.extend)
    assert found.startswith(f"the extension own.py failed at {tmp_path / 'own.py'}, {expected}")
    (tmp_path / "own.py").write_text("")
    assert extensions.extend(["own.py"], tmp_path) == {"own.py": sha256(tmp_path / "own.py")}


def test_an_extension_is_there_and_differs_in_its_name_and_is_no_override(config, tmp_path):
    expected = f"there is no extension {tmp_path / 'owm.py'}"
    assert error(["owm.py"], tmp_path, load=extensions.extend) == expected
    for name in ("no_such_module", "no.such.module", "sys", "..own"):
        expected = f"there is no extension {name}: name a file FILE.py or a module"
        assert error([name], load=extensions.extend) == expected
    other = tmp_path / "other" / "own.py"
    other.parent.mkdir()
    other.write_text("")
    expected = f"two extensions are called own.py: rename {other}"
    assert error(["own.py", "other/own.py"], tmp_path, load=extensions.extend) == expected
    expected = "extensions must be set by --extensions=FILE.py"
    assert error(config, ["extensions=()"]) == expected


def test_a_module_is_an_extension_with_all_files_of_its_package(tmp_path, monkeypatch):
    package = tmp_path / "own_package"
    package.mkdir()
    (package / "__init__.py").write_text(solver("own", 1))
    (package / "more.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    (first,) = extensions.extend(["own_package"]).values()
    assert parts.get("solver", "own") == 1
    assert extensions.extension_flags(["own_package"]) == ["--extensions=own_package"]
    (package / "more.py").write_text("changed = True")
    (second,) = extensions.extend(["own_package"]).values()
    assert first != second


def checksum_of(folder, files, extension="own.py"):
    """The sha256 of an extension in a folder of these files."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return extensions.checksum(folder / extension)


def test_a_checksum_covers_the_python_files_beside_and_below_an_extension(tmp_path):
    names = ["own.py", "own_helper.py", "own_package/__init__.py", "own_package/inner/__init__.py"]
    files = dict.fromkeys([*names, "own_package/inner/deep.py"], "a = 1\n")
    first = checksum_of(tmp_path, files)
    assert first != sha256(tmp_path / "own.py")
    for name in files:
        assert checksum_of(tmp_path, files | {name: "a = 2\n"}) != first
    assert checksum_of(tmp_path, files) == first
    assert checksum_of(tmp_path / "elsewhere", files) == first


@pytest.mark.parametrize("code", ["", "import json", "broken(:", "\0"])
def test_a_checksum_of_one_file_is_that_of_sha256sum(tmp_path, code, monkeypatch):
    monkeypatch.setattr(extensions, "_PACKAGE", tmp_path / "folder" / "lzn_jax")
    others = ["lzn_jax/__init__.py", "lzn_jax/data/__init__.py", "run/own.py", "../json.py"]
    files = {"own.py": code, "config.py": "def get_config():\n"} | dict.fromkeys(others, "a = 1")
    assert checksum_of(tmp_path / "folder", files) == sha256(tmp_path / "folder" / "own.py")
    files |= {"more.py": "", "numpy/__init__.py": ""}
    for installed in (tmp_path / "site-packages", tmp_path / "dist-packages"):
        assert checksum_of(installed, files) == sha256(installed / "own.py")


def test_a_checksum_of_a_package_has_names_and_borders(tmp_path):
    packages = [
        {"__init__.py": "ab", "own.py": "c"},
        {"__init__.py": "a", "own.py": "bc"},
        {"__init__.py": "ab", "more.py": "c"},
        {"__init__.py": "ab", "sub/__init__.py": "c"},
        {"__init__.py": "a", "b.py": "c", "d.py": "e"},
        {"__init__.py": "ab.pyc", "d.py": "e"},
        {"__init__.py": "abc"},
    ]
    found = [
        checksum_of(tmp_path / str(number), files, "__init__.py")
        for number, files in enumerate(packages)
    ]
    assert len(set(found)) == len(packages)
    assert found[-1] == sha256(tmp_path / "6" / "__init__.py")


HELPED = f"import own_helper\n{solver('own', 'own_helper.a')}"


@pytest.mark.parametrize("as_module", [False, True])
def test_a_changed_helper_is_a_changed_extension(
    as_module, tmp_path, registry, monkeypatch, caplog
):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "own.py").write_text(HELPED)
    (tmp_path / "own_helper.py").write_text("a = 1\n")
    extension, workdir = "own" if as_module else str(tmp_path / "own.py"), tmp_path / "run"
    config = configuration.load("digits_joint", extensions=[extension])
    workdirs.prepare(config, workdir, is_training=True)
    workdirs.record(config, workdir)
    assert parts.get("solver", "own") == 1
    (tmp_path / "own_helper.py").write_text("a = 10\n")
    configuration.load_run(workdir, extensions=[extension])
    assert "has changed since the run" in caplog.text
    assert parts.get("solver", "own") == 10  # what the checksum says has run
    caplog.clear()
    (tmp_path / "own_helper.py").write_text("a = 1\n")
    assert configuration.load_run(workdir, extensions=[extension]) == config
    assert not caplog.messages


def test_the_program_that_runs_is_not_forgotten(tmp_path, monkeypatch):
    monkeypatch.setattr(
        sys.modules["__main__"], "__file__", str(tmp_path / "main.py"), raising=False
    )
    extensions._forget([tmp_path / "main.py"])
    assert "__main__" in sys.modules


def test_extensions_of_equal_content_run_each(tmp_path, registry):
    code = "from lzn_jax import parts\n\nparts.add('solver', __file__[-6:-3], 1, owner=__name__)\n"
    for name in ("one.py", "two.py"):
        (tmp_path / name).write_text(code)
    digests = extensions.extend(["one.py", "two.py"], tmp_path)
    assert list(digests) == ["one.py", "two.py"]
    assert {"one", "two"} <= set(parts.names("solver"))
    registry()
    extensions.extend(["one.py"], tmp_path)
    assert extensions.found_extension("one.py", digests["one.py"]) == digests["one.py"]
    assert extensions.found_extension("two.py", digests["two.py"]) is None


@pytest.mark.parametrize("name", ["parts.py", "lzn_jax.latent_space", "lzn_jax.parts", "json"])
def test_an_extension_is_not_a_module_that_is_there_anyway(name, tmp_path):
    assert extensions.found_extension(name, "0" * 64) is None
    (tmp_path / "parts.py").write_text(solver("own", 1))
    digests = extensions.extend(["parts.py"], tmp_path)
    assert digests == {"parts.py": sha256(tmp_path / "parts.py")}
    assert parts.get("solver", "own") == 1
    assert parts.get("solver", "euler") != 1


def test_an_imported_module_that_registers_a_part_is_a_loaded_extension(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own.py").write_text("import own_helper\n")
    (tmp_path / "own_helper.py").write_text(solver("own", 1))
    importlib.import_module("own")
    digest = extensions.checksum(tmp_path / "own.py")
    assert extensions.found_extension("own", "0" * 64) == digest
    assert extensions.found_extension("own_helper.py", "0" * 64) == digest
    assert extensions.found_extension("own_other", "0" * 64) is None


def test_of_imported_files_of_one_name_a_run_finds_its_own(tmp_path):
    for number in range(3):
        file = tmp_path / str(number) / "own.py"
        file.parent.mkdir()
        file.write_text(solver(f"own{number}", 1))
        extensions._run(file, f"own{number}")
        assert extensions.found_extension("own.py", sha256(file)) == sha256(file)
    assert extensions.found_extension("own.py", "0" * 64) is not None


@pytest.mark.parametrize("value", ["own_installed", "no_such_module"])
def test_an_installed_package_adds_its_parts_by_an_entry_point(value, tmp_path, monkeypatch):
    load = functools.cache(parts.load_installed.__wrapped__)  # looks again
    monkeypatch.setattr(parts, "load_installed", load)
    info = tmp_path / "own-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[lzn_jax.parts]\nmine = {value}\n")
    (tmp_path / "own_installed.py").write_text(solver("own", 4))
    monkeypatch.syspath_prepend(str(tmp_path))
    if value == "no_such_module":
        expected = "the entry point mine = no_such_module failed at "
        assert error("digits_joint").startswith(expected)
    else:
        assert configuration.load("digits_joint", ["latent.solver=own"]).extensions == ()
        assert parts.get("solver", "own") == 4


@pytest.fixture
def run(config, tmp_path):
    """The folder of a run with an extension, of which a file of the same name is there, too."""
    workdir = tmp_path / "run"
    found = configuration.load(config, ["latent.solver=own", "latent.own=9"])
    workdirs.prepare(found, workdir, is_training=True)
    workdirs.record(found, workdir)
    (workdir / "checkpoints" / "2").mkdir(parents=True)
    (workdir / "own.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\n")
    return workdir


def test_a_run_names_its_extensions_and_is_opened_with_them_alone(
    run, tmp_path, registry, monkeypatch, capsys
):
    digest = sha256(tmp_path / "own.py")
    stored = json.loads((run / "config.json").read_text())
    assert stored["extensions"] == ["own.py"]
    assert stored["extension_checksums"] == [digest]
    assert configuration.load_run(run).latent.own == 9  # it has run in this process
    registry()
    expected = (
        f"{run / 'config.json'} needs the extension own.py (sha256 {digest[:12]}): pass "
        "--extensions=own.py, or extensions=('own.py',) to lzn_jax.load"
    )
    assert error(run, load=configuration.load_run) == expected
    flags = [f"--workdir={run}", "--mode=show_config"]
    monkeypatch.chdir(run)
    monkeypatch.syspath_prepend(str(run))  # as with python -m
    assert command_line.main(flags) == 2
    assert capsys.readouterr().err == f"error: {expected}\n"
    assert not (tmp_path / "executed").exists()
    assert command_line.main([*flags, f"--extensions={tmp_path / 'own.py'}"]) == 0
    assert "latent.own = 9" in capsys.readouterr().out
    registry()
    found = configuration.load_run(run, extensions=[str(tmp_path / "own.py")])
    assert found.latent.own == 9


@pytest.mark.parametrize("name", ["own", "sys", "no.such.module"])
def test_a_module_that_a_run_names_is_not_imported(name, run, tmp_path, registry, monkeypatch):
    registry()
    path = run / "config.json"
    path.write_text(path.read_text().replace("own.py", name))
    monkeypatch.chdir(run)
    monkeypatch.syspath_prepend(str(run))
    assert f"needs the extension {name} (" in error(run, load=configuration.load_run)
    assert not (tmp_path / "executed").exists()


def test_a_run_whose_extension_has_changed_is_evaluated_but_not_trained_on(
    run, config, tmp_path, registry, caplog
):
    before = configuration.load(config, ["latent.solver=own", "latent.own=9"])
    workdirs.prepare(before, run, is_training=True)
    digest = sha256(tmp_path / "own.py")
    registry()
    (tmp_path / "own.py").write_text(f"{OWN}# changed\n")
    after = configuration.load(config, ["latent.solver=own", "latent.own=9"])
    expected = (
        f"{run} holds a run of other extensions, own.py of sha256 {digest[:12]}: use these or "
        "choose another --workdir"
    )
    assert error(after, run, is_training=True, load=workdirs.prepare) == expected
    workdirs.prepare(after, run, is_training=False)
    found = configuration.load_run(run)
    assert caplog.messages == [f"the extension own.py has changed since the run of {run}"]
    assert found.extension_checksums == (sha256(tmp_path / "own.py"),)
    without = configuration.load("digits_joint")
    assert "other extensions, own.py" in error(
        without, run, is_training=True, load=workdirs.prepare
    )


def test_a_run_is_evaluated_without_fields_that_its_extension_has_lost(
    run, config, tmp_path, registry
):
    stored = json.loads((run / "config.json").read_text())
    registry()
    (tmp_path / "own.py").write_text(
        OWN.replace('{"latent.own": parts.count("its order", 3)}', "{}")
    )
    extensions.extend([str(tmp_path / "own.py")])
    found = configuration.load_run(run)
    assert found.latent.solver == "own"
    assert "own" not in found.latent
    workdirs.prepare(found, run, is_training=False)
    stored["extension_checksums"] = [sha256(tmp_path / "own.py")]  # it never had the field
    (run / "config.json").write_text(json.dumps(stored))
    assert "no field latent.own" in error(run, load=configuration.load_run)


def test_a_command_takes_extensions(tmp_path, capsys):
    for name in ("one.py", "two.py"):
        (tmp_path / name).write_text("")
    both = f"--extensions={tmp_path / 'one.py'},{tmp_path / 'two.py'}"
    assert command_line.main(["--config=digits_joint", "--mode=show_config", both]) == 0
    assert "extensions = ('one.py', 'two.py')" in capsys.readouterr().out
    assert extensions.extension_flags(["one.py", "two.py"]) == [both]


NUMBERS = """
import numpy as np

from lzn_jax import parts
from lzn_jax.data import Examples


class Numbers:
    @staticmethod
    def load(data, split):
        x = np.linspace(-2, 2, 40 if split == "train" else 12, dtype=np.float32)
        return Examples(None, (x > 0).astype(np.int32), more={"x": x})

    @staticmethod
    def class_names(data):
        return ("below", "above")


def count(model, train, test, workdir):
    return {"own_examples": len(train.labels) + len(test.labels)}


def draw(model, test, folder):
    (folder / "own.txt").write_text(f"{model.step} {len(test.labels)}")


parts.add("data", "own", Numbers, {"data.num_classes": parts.count("of signs", 2)})
parts.add("measurement", "own", count)
parts.add("figure", "own", draw)
"""


@pytest.mark.slow
def test_data_a_measurement_and_a_figure_of_ones_own_in_a_space_without_images(
    tmp_path, registry, capsys
):
    (tmp_path / "own.py").write_text(NUMBERS)
    extension, workdir = f"--extensions={tmp_path / 'own.py'}", f"--workdir={tmp_path / 'run'}"
    flags = [f"--config={ROOT / 'tests' / 'without_images.py'}", workdir, extension]
    flags += ["--config.data.name=own", "--config.property.column=x"]
    property_type = str(ROOT / "examples" / "property" / "property.py")
    own = [f"--config.evaluation.{kind}=('own',)" for kind in ("measurements", "figures")]
    assert command_line.main([*flags, *own]) == 0
    assert f"{workdir} {extension}" in capsys.readouterr().err  # of what can be done next
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["own_examples"] == 52
    assert (tmp_path / "run" / "figures" / "own.txt").read_text() == f"{summary['step']} 12"
    assert {"label_to_property_mae", "label_to_property_r2", "test_accuracy"} <= summary.keys()
    registry()  # as a new process
    pair = ["--mode=translate", "--source=property", "--target=label", "--input=1.5,-0.5"]
    assert command_line.main([workdir, *pair]) == 2
    assert "needs the extension own.py" in capsys.readouterr().err
    own = [property_type, str(tmp_path / "own.py")]
    model = lzn_jax.load(tmp_path / "run", extensions=own)
    assert command_line.main([workdir, *pair]) == 0
    rows = (tmp_path / "run" / "translations.csv").read_text().splitlines()
    found = model.translate([1.5, -0.5], "property", "label")
    assert rows[1:] == [f"0,1.5,{found[0]}", f"1,-0.5,{found[1]}"]
    assert command_line.main([workdir, "--mode=sample"]) == 0
    drawn = np.load(tmp_path / "run" / "samples.npz")
    assert drawn["properties"].shape == (100,)
    assert np.bincount(drawn["labels"]).tolist() == [50, 50]
