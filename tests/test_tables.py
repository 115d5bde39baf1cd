"""benchmarks/tables.py and choose.py: tables of docs are the numbers of the runs."""

import importlib
import json
from pathlib import Path

import pytest

from lzn_jax import configuration

ROOT = Path(__file__).parent.parent


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("tables")


@pytest.fixture
def choose(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("choose")


def test_tables_of_docs_are_the_kept_numbers(tables):
    for page in tables.PAGES:
        text = (ROOT / page).read_text()
        assert tables.MARK.search(text), page
        assert tables.rewritten(text) == text, f"python benchmarks/tables.py rewrites {page}"


@pytest.mark.parametrize("path", sorted((ROOT / "docs/results").glob("*_choice.json")))
def test_a_config_has_the_best_setting(path):
    config = f"configs/{path.stem.removesuffix('_choice')}.py"
    (best, *_) = json.loads(path.read_text())["arms"]["LZN"]
    fields = configuration.load(config, best["setting"]).to_dict()
    assert fields == configuration.load(config).to_dict(), best["setting"]


@pytest.mark.parametrize("path", sorted((ROOT / "docs/results").glob("*_choice.json")))
def test_kept_settings_are_the_grid_in_the_order_of_its_criteria(choose, path):
    study = choose.GRIDS[path.stem.removesuffix("_choice")]
    kept = json.loads(path.read_text())
    assert tuple(kept["split"]) == study.split
    assert list(kept["arms"]) == list(study.arms)
    for arm, rows in kept["arms"].items():
        of_setting = {tuple(row["setting"]): row["metrics"] for row in rows}
        found = {
            (arm, number, seed): {name: values[i] for name, values in of_setting[setting].items()}
            for number, setting in enumerate(study.arms[arm])
            for i, seed in enumerate(choose.SEEDS)
        }
        assert choose.ranked(study, arm, found) == rows


def test_kept_numbers_are_small():
    sizes = [path.stat().st_size for path in (ROOT / "docs/results").iterdir()]
    assert sum(sizes) <= 200_000


def test_variants_are_level_if_their_seeds_overlap(tables):
    assert tables.finding([1, 2], [2, 3], more=True) == "level"
    assert tables.finding([3, 4], [1, 2], more=True) == "better"
    assert tables.finding([3, 4], [1, 2], more=False) == "worse"
    assert tables.finding([1, 2], [3, 4], more=True) == "worse"
    assert tables.finding([1, 4], [2, 3], more=True) == "level"


def test_a_mark_is_followed_by_its_table_alone(tables, monkeypatch):
    lzn = {"setting": [], "metrics": {"fd_features": [1.0, 2.0]}}
    flow = {"setting": [], "metrics": {"fd_features": [4.0, 6.0]}}
    found = {"commit": "a", "seeds": [10, 11], "variants": {"LZN": lzn, "RF": flow}}
    monkeypatch.setattr(tables, "read", lambda name: found)
    mark = "a\n\n<!-- results summary one_gen two_gen -->\n\n"
    row = "| fd_features | 1.50 ± 0.71 | rectified flow without latents | 5.00 ± 1.41 | better |\n"
    head = "| config | metric | LZN | baseline | its result | LZN is |\n|---|---|---|---|---|---|\n"
    table = f"{head}| `one_gen` {row}| `two_gen` {row}"
    assert tables.rewritten(f"{mark}| old |\n| 1 |\n\nb\n") == f"{mark}{table}\nb\n"


def test_a_metric_has_the_first_baseline_that_measures_it(tables, monkeypatch):
    variants = {
        "no_generation": {"test_accuracy": [0.5, 0.7], "fd_features": [0.0, 0.0]},
        "RF": {"fd_features": [2.0, 3.0]},
        "LZN": {"test_accuracy": [0.8, 0.9], "fd_features": [1.0, 2.0], "recall": [0.1]},
    }
    found = {"variants": {name: {"metrics": row} for name, row in variants.items()}}
    monkeypatch.setattr(tables, "read", lambda name: found)
    rows = tables.compared("toy", ["test_accuracy", "fd_features", "recall", "precision"])
    assert [row[2:] for row in rows] == [
        ["classification alone", "0.600 ± 0.141", "better"],
        ["rectified flow without latents", "2.50 ± 0.71", "level"],
        ["-", "-", "-"],
    ]


def test_arms_of_a_study_try_equally_many_settings(choose):
    for name, study in choose.GRIDS.items():
        arms = list(study.arms.values())
        assert len({len(rows) for rows in arms}) == 1, name
        assert len(set(arms[0])) == len(arms[0]) <= 12, name
        assert any("data.validation=" in field for field in study.split), name


def test_the_best_setting_has_the_lowest_mean_rank(choose, monkeypatch, tmp_path):
    """Accuracies 1, 2, 3 and distances 5, 4, 6: ranks 3, 2, 1 and 2, 1, 3."""
    settings = [("a",), ("b",), ("c",)]
    study = choose.Study(("data.validation=9",), choose.JOINT, {"LZN": settings})
    monkeypatch.setitem(choose.GRIDS, "toy", study)
    numbers = {"a": (1, 5), "b": (2, 4), "c": (3, 6)}
    trained = []

    def run(config, workdir, flags):
        trained.append((config, workdir.name, *flags))
        accuracy, distance = numbers[flags[-1]]
        offset = 10 * int(flags[0].removeprefix("seed="))
        return {"test_accuracy": accuracy + offset, "fd_features": distance + offset}

    monkeypatch.setattr(choose.evidence, "run", run)
    rows = choose.choose("toy", tmp_path, 2)["LZN"]
    assert [row["setting"] for row in rows] == [["b"], ["c"], ["a"]]
    assert [row["mean_rank"] for row in rows] == [1.5, 2.0, 2.5]
    assert rows[0]["metrics"] == {"test_accuracy": [2, 12], "fd_features": [4, 14]}
    first = ("configs/toy.py", "LZN_0_seed0", "seed=0", "data.validation=9", "a")
    assert len(trained) == 6
    assert first in trained
    json.dumps(rows)


def test_an_arm_is_ranked_by_the_metrics_that_it_has(choose, tables, monkeypatch):
    study = choose.Study((), choose.JOINT, {"LZN": [("a",)], "RF": [("b",), ("c",)]})
    accurate = {"test_accuracy": 0.9, "fd_features": 1.0}
    found = {("LZN", 0, seed): accurate for seed in choose.SEEDS}
    found |= {("RF", i, s): {"fd_features": 3.0 - i} for i in (0, 1) for s in choose.SEEDS}
    arms = {arm: choose.ranked(study, arm, found) for arm in study.arms}
    monkeypatch.setattr(tables, "read", lambda name: {"arms": arms})
    assert tables.choices("toy") == [
        ["", "setting", "test accuracy", "fd_features", "mean rank"],
        ["LZN", "`a`", "0.900, 0.900", "1.00, 1.00", "1"],
        ["RF", "`c`", "", "2.00, 2.00", "1"],
        ["RF", "`b`", "", "3.00, 3.00", "2"],
    ]
