"""The examples of the docs run as they stand, and what README, docs and notebooks name exists."""

import ast
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
import small
from sklearn.linear_model import LogisticRegression

import lzn_jax
from lzn_jax import configuration, data, main
from lzn_jax.configuration import flatten
from lzn_jax.run import devices

ROOT = Path(__file__).parent.parent


def blocks_of(name):
    """The Python examples of a page."""
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)


def names_of(name, index=0):
    """The variables that an example of a page leaves."""
    names: dict = {}
    block = blocks_of(name)[index]
    exec(compile(block, name, "exec"), names)
    return names


def test_a_trained_model_does_what_the_example_says(tmp_path, monkeypatch, capsys):
    config = small.config(ROOT / "configs" / "digits_joint.py", training__batch_size=16)
    small.untrained_run(tmp_path / "results" / "digits_joint", config)
    monkeypatch.chdir(tmp_path)
    with jax.set_mesh(devices.make_mesh(1)):  # of eight devices, programs compile for longer
        names = names_of("docs/python.md", index=1)
    assert names["anchors"].shape == names["latents"].shape == names["centres"].shape == (360, 4)
    assert names["classes"].shape == names["probabilities"].shape == names["errors"].shape == (360,)
    assert names["sevens"].shape == (4, 8, 8, 1)
    assert names["path"].shape == (11, 8, 8, 1)
    assert set(names["features"]) == {"anchor", "latent", "latent_centre"}
    said = capsys.readouterr().out
    assert f"accuracy {np.mean(names['classes'] == names['test'].labels)} " in said
    assert said.splitlines()[0].endswith(f"reconstruction {names['errors'].mean()!s}")
    assert "path (11, 8, 8, 1)" in said


@pytest.mark.slow
def test_arrays_are_trained_on(tmp_path, monkeypatch):
    whole = lzn_jax.fit

    def shrunk(config, *given, **changes):
        return whole(config, *given, **(changes | small.shrunk(config) | {"steps": 2}))

    monkeypatch.setattr(lzn_jax, "fit", shrunk)
    monkeypatch.chdir(tmp_path)
    names = names_of("docs/python.md")
    assert (names["model"].step, names["classes"].shape) == (2, (5,))
    assert (tmp_path / "results/own/summary.json").is_file()


@pytest.mark.slow
@pytest.mark.usefixtures("full_speed")
def test_an_encoder_of_ones_own_learns(capsys):
    names_of("website/zoning_functions.md")
    said, accuracy = capsys.readouterr().out.split()
    assert said == "accuracy"
    assert float(accuracy) > 0.93
    assert len(blocks_of("website/zoning_functions.md")[0].splitlines()) <= 40


@pytest.mark.slow
@pytest.mark.usefixtures("full_speed")
def test_the_smallest_type_learns(tmp_path, monkeypatch):
    small.without_pictures(monkeypatch)
    example = ROOT / "examples" / "profiles"
    workdir, extension = tmp_path / "run", example / "profiles.py"
    flags = [f"--config={example / 'config.py'}", "--config.evaluation.noise_scales=()"]
    assert main.main([*flags, f"--workdir={workdir}"]) == 0
    model = lzn_jax.load(workdir, extensions=[str(extension)])
    train, test = data.load_data(model.config)
    profiles, labels = model.space.types["profile"].samples(test), test.labels
    assert np.mean(model.translate(profiles, "profile", "label") == labels) > 0.75
    (alone,) = model.translate(profiles[:1], "profile", "label")
    assert alone == labels[0]
    made = model.translate(np.arange(10), "label", "profile", noise_scale=0.0)
    judge = LogisticRegression(max_iter=1000)
    judge.fit(model.space.types["profile"].samples(train), train.labels)
    assert judge.predict(made).tolist() == list(range(10))


PAGES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))
INTERFACES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "website").glob("*.md"))
EXAMPLES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "examples").glob("*/*.md"))


def test_every_python_example_is_run():
    pages = [name for name in ("README.md", *PAGES, *INTERFACES) if blocks_of(name)]
    of_export = "docs/usage.md"  # runs in tests/modes/test_export.py
    assert pages == ["docs/python.md", of_export, "docs/zoning.md", "website/zoning_functions.md"]


@pytest.mark.parametrize(
    "name", ["README.md", "CONTRIBUTING.md", "launch/README.md", *PAGES, *EXAMPLES, *INTERFACES]
)
def test_what_is_named_exists(name):
    text = (ROOT / name).read_text()
    for path in re.findall(r"(?:configs|benchmarks|tests|launch|lzn_jax)/(?!NAME)[\w/]+\.py", text):
        assert (ROOT / path).is_file(), path
    for folder in re.findall(r"`(lzn_jax/\w+/)`", text):
        assert (ROOT / folder / "__init__.py").is_file(), folder
    for link, heading in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", text):
        target = (ROOT / name).parent / link if link else ROOT / name
        assert target.exists(), link
        assert not heading or heading in headings(target), f"{link}#{heading}"


def headings(path):
    """The anchors that GitHub makes of a page's headings."""
    found = re.findall(r"^#+ (.*)", path.read_text(), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in found]


def test_the_first_run_shows_the_range_of_its_seeds():
    readme = (ROOT / "README.md").read_text()
    found = json.loads((ROOT / "docs/results/digits_joint.json").read_text())
    decimals = {"test_accuracy": 3, "fd_features": 2, "sample_accuracy": 3, "reconstruction_l2": 3}
    for metric, places in decimals.items():
        values = found["variants"]["LZN"]["metrics"][metric]
        (shown,) = re.findall(rf"^  {metric} +(.*)$", readme, re.MULTILINE)
        assert shown == f"{min(values):.{places}f} to {max(values):.{places}f}"


def test_fields_in_commands_are_fields_of_configs():
    paths = [*(ROOT / "configs").glob("*.py"), *(ROOT / "examples").glob("*/config.py")]
    # It imports rdkit, which `.[test]` lacks; no page sets a field of its own.
    paths.remove(ROOT / "examples" / "molecules" / "config.py")
    paths.remove(ROOT / "configs" / "quick.py")  # It has no data of its own.
    known = {name for path in paths for name in flatten(configuration.load(str(path)).to_dict())}
    for page in ("README.md", *PAGES):
        named = re.findall(r"--config\.([a-z_.]+)=", (ROOT / page).read_text())
        of_any_pair = {re.sub(r"^alignment\.\w+_to_\w+\.", "alignment.", name) for name in named}
        assert of_any_pair <= known, page


def test_every_config_and_page_is_named():
    text = (ROOT / "README.md").read_text()
    for config in (ROOT / "configs").glob("*.py"):
        assert f"configs/{config.name}" in text
    for page in PAGES:
        assert f"]({page})" in text


def test_every_script_and_picture_is_used():
    text = "".join((ROOT / name).read_text() for name in ("README.md", *PAGES))
    for path in (ROOT / "benchmarks").glob("*.py"):
        others = [other.read_text() for other in path.parent.glob("*.py") if other != path]
        assert re.search(rf"(benchmarks/|from |import ){path.stem}\b", "".join([text, *others]))
    for path in (ROOT / "docs").glob("*.png"):
        assert path.name in text, path


def test_every_mode_has_its_line():
    text = (ROOT / "docs" / "usage.md").read_text()
    for mode in main.MODES:
        assert f"\n| `{mode}` | " in text


def test_extras_that_are_named_bring_what_the_commands_after_them_run():
    setup = (ROOT / "setup.py").read_text()
    (given,) = re.findall(r"extras_require=(\{.*?\}),\n\)", setup, re.DOTALL)
    extras = {
        name: {re.split(r"[>[]", package)[0] for package in packages}
        for name, packages in ast.literal_eval(given).items()
    }
    pages = "".join(path.read_text() for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")])
    assert set(re.findall(r"'\.\[(\w+)\]'", pages)) <= extras.keys()
    for command, (extra, package) in {
        "tensorboard --logdir": ("tensorboard", "tensorboard"),
        "jupyter lab notebooks/": ("notebooks", "jupyterlab"),
    }.items():
        assert re.search(rf"'\.\[{extra}\]'\W+{command}", pages)
        assert package in extras[extra]
        assert f"\n{package}==" in (ROOT / "constraints.txt").read_text()
