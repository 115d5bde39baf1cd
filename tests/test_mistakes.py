"""Mistakes in parts: one line of the command with the part's name, file and line."""

import functools
import importlib
import pickle
from pathlib import Path

import cloudpickle
import numpy as np
import pytest
import small
from ml_collections import ConfigDict
from test_parts import registry  # noqa: F401

import lzn_jax
from lzn_jax import configuration, data, extensions, parts
from lzn_jax import main as command_line
from lzn_jax.data.batches import TrainingBatches
from lzn_jax.errors import UserError
from lzn_jax.latent_space import LatentSpace
from lzn_jax.run import devices
from lzn_jax.trained_model import TrainedModel

TESTS = Path(__file__).parent
ROWS, CONFIG = (TESTS / "rows.py").read_text(), (TESTS / "rows_config.py").read_text()
LOSS = 'return jnp.mean(anchors**2), {"size": jnp.max(anchors)}'
ALIGNED = "return jnp.mean((latents - zones.anchors[targets]) ** 2), {}"
NETWORK = "return nn.Dense(self.dim)(x)"


@pytest.fixture(autouse=True)
def folder(registry, tmp_path):  # noqa: F811
    """A folder with the config; nothing of other tests is registered."""
    (tmp_path / "config.py").write_text(CONFIG)
    return tmp_path


def spoilt(folder, old, new):
    """Writes the parts with one mistake; the path."""
    assert ROWS.count(old) == 1
    path = folder / "rows.py"
    path.write_text(ROWS.replace(old, new))
    return path


def failure(capsys, *flags):
    """The one line of a command that ends with the code of a user's mistake."""
    assert command_line.main(list(map(str, flags))) == 2
    written = capsys.readouterr().err
    assert "Traceback" not in written
    (line,) = [line for line in written.splitlines() if line.startswith("error: ")]
    assert written.endswith(f"{line}\n")
    return line.removeprefix("error: ")


def place(path, code):
    """A file, and its line that starts with the code."""
    lines = [line.strip() for line in path.read_text().splitlines()]
    (number,) = [number for number, line in enumerate(lines, 1) if line.startswith(code)]
    return f"{path}, line {number}"


# What is replaced by what, the part, the start of the line that is named, and of the message.
PAIR = "TypeError: it must return (scalar, dict of scalars), got the shapes"
IN_TRAINING = {
    "vector": (LOSS, "return anchors[:, 0], {}", "loss 'spread'", "def sp", f"{PAIR} ((8,), {{}})"),
    "single": (LOSS, "return jnp.mean(anchors)", "loss 'spread'", "def sp", f"{PAIR} ()"),
    "no dict": (LOSS, "return anchors[0, 0], 1.0", "loss 'spread'", "def sp", f"{PAIR} ((), ())"),
    "nothing": (LOSS, "return None", "loss 'spread'", "def sp", f"{PAIR} None"),
    "metric": (
        *(LOSS, 'return anchors[0, 0], {"a": anchors}', "loss 'spread'", "def sp"),
        f"{PAIR} ((), {{'a': (8, 4)}})",
    ),
    "alignment": (ALIGNED, "return latents[0, 0]", "alignment 'own'", "def align", f"{PAIR} ()"),
    "zones": (
        *('zones["row"]', 'zones["rows"]', "loss 'spread'", "anchors = zones"),
        "KeyError: 'rows'; variables contains label_anchors, row_decoder, row_encoder; batch "
        "contains labels, rows; zones contains row, label",
    ),
    "train": (
        *("(self, x, train)", "(self, x)", "type 'row'", "class Row("),
        "TypeError: Net.__call__() got an unexpected keyword argument 'train'",
    ),
    "batch norm": (
        *(NETWORK, "return nn.BatchNorm(not train)(nn.Dense(self.dim)(x))", "type 'row'"),
        *("class Row(", "TypeError: Net() contains BatchNorm: use GroupNorm or LayerNorm"),
    ),
    "decoder": (
        *('batch["rows"]) ** 2)', 'batch["rows"]) ** 2, axis=1)', "type 'row'", "class Row("),
        "TypeError: it must return a scalar loss of its decoder, got the shapes ((8,), {})",
    ),
    "arguments": (
        *("def spread(space, ", "def spread(", "loss 'spread'", "def spread"),
        "TypeError: spread() takes 4 positional arguments but 5 were given",
    ),
    "member": (
        *("def columns(self, examples)", "def columns(self)", "type 'row'", "class Row("),
        "TypeError: Row.columns() takes 1 positional argument but 2 were given",
    ),
    "data": (
        *("def load(data, split)", "def load(data)", "data 'rows'", "class Rows"),
        "TypeError: Rows.load() takes 1 positional argument but 2 were given",
    ),
    "optimizer": (
        *("optax.sgd(schedule)", "optax.sgd(plans)", "optimizer 'own'", "return optax"),
        "NameError: name 'plans' is not defined",
    ),
    "no schedule": (
        *("return lambda step: peak", "return None", "schedule 'own'", "def plan"),
        "TypeError: 'NoneType' object is not callable",
    ),
    "schedule": (
        *("lambda step: peak", "lambda step: peak[0]", "schedule 'own'", "return lambda"),
        "TypeError: 'float' object is not subscriptable",
    ),
    "samples": (
        *("def samples(self", "def sample(self", "type 'row'", 'return {"rows": self.samples'),
        "NotImplementedError: Row.samples is not defined",
    ),
    "table": (
        *("return zoning.Euler(self.num_steps).towards_prior(mixture)", "return 1", "solver 'own'"),
        *("@dataclasses", ""),
    ),
}


@pytest.mark.parametrize("name", IN_TRAINING)
def test_a_mistake_is_found_in_training(name, folder, capsys):
    old, new, part, code, message = IN_TRAINING[name]
    path = spoilt(folder, old, new)
    found = failure(capsys, f"--config={folder / 'config.py'}", f"--workdir={folder / 'run'}")
    assert found.startswith(f"{part} failed at {place(path, code)}: {message}")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run without training; what it registers is forgotten."""
    parts.names("type")  # what ships is there
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "PARTS", dict(parts.PARTS))
        patch.setattr(extensions, "_EXTENSIONS", {})
        config = configuration.load(str(TESTS / "rows_config.py"))
        return small.untrained_run(tmp_path_factory.mktemp("rows") / "run", config)


TO_LABEL = ("--mode=translate", "--source=row", "--target=label", "--input=1,2,3")
TO_ROW = ("--mode=translate", "--source=label", "--target=row")
NUMBER = 'return {"own_count": len(test.labels)}'
AT_USE = {
    "no numbers": (
        *(NUMBER, "return 3", "measurement 'own'", "def measure"),
        "TypeError: it must return numbers by name, got 3",
    ),
    "array": (
        *(NUMBER, 'return {"own": np.zeros(2)}', "measurement 'own'", "def measure", "TypeError: "),
    ),
    "measurement": (
        *(NUMBER, 'return {"own": 1 / 0}', "measurement 'own'", 'return {"own"'),
        "ZeroDivisionError: division by zero",
    ),
    "figure": (
        *('write_text("drawn")', "draw()", "figure 'own'", '(folder / "own.txt")'),
        "AttributeError: 'PosixPath' object has no attribute 'draw'",
    ),
    "parse": (
        *('np.array([text.split(",")]', 'np.array([text.split(",").rows]', "type 'row'"),
        *("return np.array([text", "AttributeError: 'list' object has no attribute 'rows'"),
    ),
    "shown": (
        *("{row[0]:.2f}", "{row.first:.2f}", "type 'row'", 'return [f"from'),
        "AttributeError: 'numpy.ndarray' object has no attribute 'first'",
    ),
    "class of no part": (  # the first kind of its file has it
        *('return {"rows": self.made(variables, condition)}', "return self.nothing", "type 'row'"),
        *("return self.nothing", "AttributeError: 'Mean' object has no attribute 'nothing'"),
    ),
    "missing": (
        *("def class_names(data)", "def names(data)", "data 'rows'", "class Rows"),
        "AttributeError: type object 'Rows' has no attribute 'class_names'",
    ),
}


@pytest.mark.parametrize("name", AT_USE)
def test_a_mistake_is_found_at_its_use(name, folder, run, capsys):
    old, new, part, code, message = AT_USE[name]
    path = spoilt(folder, old, new)
    flags = ["--mode=evaluate"] if part.endswith("'own'") else TO_ROW
    flags = TO_LABEL if name in ("parse", "shown") else flags
    found = failure(capsys, f"--workdir={run}", f"--extensions={path}", *flags)
    assert found.startswith(f"{part} failed at {place(path, code)}: {message}")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("1,nan,3", "rows must be finite, got NaN or infinity"),
        ("1,-inf,3", "rows must be finite, got NaN or infinity"),
        ("1,2", "the encoder reads rows of shape (3,), got (2,)"),
    ],
)
def test_samples_that_the_encoder_cannot_read_are_one_line(value, message, run, capsys):
    extension, mode = f"--extensions={TESTS / 'rows.py'}", (*TO_LABEL[:-1], f"--input={value}")
    assert failure(capsys, f"--workdir={run}", extension, *mode) == message
    kind = lzn_jax.load(run, [str(TESTS / "rows.py")]).space.types["row"]
    assert kind.checked(rows := np.ones((2, 3), np.float32)) is rows
    assert kind.checked(texts := ["a", "b"]) is texts
    kind.encoded = lambda samples: np.ones((len(samples), 3))  # of which the encoder reads
    assert kind.checked(texts := np.array(["a", "b"])) is texts
    kind.encoder = object()  # without an example
    assert kind.checked(rows) is rows


def test_python_gets_the_line_and_its_cause(folder):
    path = spoilt(folder, LOSS, "return 1 / 0, {}")
    with pytest.raises(UserError) as caught:
        lzn_jax.fit(str(folder / "config.py"), workdir=folder / "run")
    assert str(caught.value).startswith(
        f"loss 'spread' failed at {place(path, 'return 1 / 0')}: Ze"
    )
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_bug_of_the_package_stays_a_traceback(folder, run, monkeypatch, capsys):
    (folder / "rows.py").write_text(ROWS)
    flags = [f"--workdir={run}", f"--extensions={folder / 'rows.py'}"]

    def broken(*arguments, **options):
        raise TypeError("row of no Row")

    monkeypatch.setattr(TrainedModel, "translate", broken)  # of this file, which adds no part
    with pytest.raises(TypeError, match="row of no Row"):
        command_line.main([*flags, *TO_LABEL])


HELPER = """
from lzn_jax import parts


def made(name, power):
    def loss(space, *arguments):
        return space.nothing ** power, {}

    parts.add("loss", name, loss)


def called(function):
    return function()
"""


def test_the_part_is_the_one_of_the_code_and_the_file_the_one_of_the_line(folder, monkeypatch):
    (folder / "own_helper.py").write_text(HELPER)
    monkeypatch.syspath_prepend(str(folder))
    helper = importlib.import_module("own_helper")
    for name, power in (("first", 1), ("second", 2), ("third", 3)):
        helper.made(name, power)
    for name in ("first", "second", "third"):  # of one definition: the one that is called
        with pytest.raises(UserError) as caught, parts.mistakes(f"loss {name!r}"):
            parts.get("loss", name)(None)
        at = place(folder / "own_helper.py", "return space.nothing")
        assert str(caught.value).startswith(f"loss '{name}' failed at {at}: AttributeError: ")

    def broken():
        raise ValueError("two\nlines")

    parts.add("measurement", "here", functools.partial(broken))
    first = broken.__code__.co_firstlineno
    here = f"^measurement 'here' failed at {__file__}, line"
    for call, what, message in (
        (broken, "", rf"{here} {first + 1}: ValueError: two lines$"),
        (functools.partial(helper.called, broken), "", rf"{here} {first + 1}: ValueError: two l"),
        (functools.partial(int, "two"), "measurement 'here'", f"{here} {first}: ValueError: inv"),
    ):
        with pytest.raises(UserError, match=message):
            parts.mistakes(what)(call)()
    parts.add("encoder", "made", object(), owner=__name__)
    with pytest.raises(UserError, match=f"^encoder 'made' failed at {__file__}: ValueError: "):
        parts.mistakes("encoder 'made'")(int)("two")
    with pytest.raises(ValueError, match="invalid"):
        parts.mistakes("solver 'euler'")(int)("two")
    parts.add("loss", "theirs", data.label_names)  # of the package, whose bugs are its own
    with pytest.raises(AttributeError):
        parts.mistakes()(data.label_names)(ConfigDict())


@pytest.mark.parametrize("processes", [0, *small.slow(1)])
def test_a_transform_in_another_process_names_its_line(processes, folder):
    new = '@staticmethod\n    def transform(row, rng):\n        return row["x"]\n'
    path = spoilt(folder, "class Row(DataType):", f"class Row(DataType):\n    {new}")
    config = configuration.load(str(folder / "config.py"))
    space, train = LatentSpace(config, devices.make_mesh(1)), data.load(config.data, "train")
    options = {"columns": space.columns(train), "row_transforms": space.row_transforms}
    with TrainingBatches(train, 8, 0, None, workers=processes, **options) as batches:
        call = functools.partial(next, batches)
        if processes == 0:  # a worker gets a copy
            for module in extensions.extension_modules():
                cloudpickle.register_pickle_by_value(module)
            (transform,) = pickle.loads(cloudpickle.dumps(space.row_transforms))
            call = functools.partial(transform, {}, None)
        with pytest.raises(UserError) as caught:
            parts.mistakes()(call)()
    at = place(path, 'return row["x"]')
    assert str(caught.value).startswith(f"type 'row' failed at {at}: KeyError: 'x'")
