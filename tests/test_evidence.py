"""benchmarks/evidence.py: its commands, tables and the figure of one pass."""

import importlib
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def evidence(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("evidence")


def test_tables_have_the_sample_standard_deviation(evidence):
    assert evidence.cell([1.0, 2.0, 3.0]) == "2.0000 ± 1.0000 (1 2 3)"
    assert evidence.cell([0.25]) == "0.2500 (0.25)"


def test_kept_numbers_are_the_metrics_of_tables_with_commit_seeds_and_settings(
    evidence, monkeypatch, tmp_path
):
    (tmp_path / "docs/results").mkdir(parents=True)
    monkeypatch.setattr(evidence, "ROOT", tmp_path)
    monkeypatch.setattr(evidence, "commit", lambda: "abc")
    table = evidence.Table("fashion_repr", tmp_path, [3, 4])
    rows = [{"step": 9, "knn_top1": 0.5}, {"step": 9, "knn_top1": 0.75}]
    evidence.keep(table, {"LZN": rows, "SimCLR": rows[:1], "pixels": rows[1:]})
    assert json.loads((tmp_path / "docs/results/fashion_repr.json").read_text()) == {
        "commit": "abc",
        "seeds": [3, 4],
        "variants": {
            "LZN": {"setting": [], "metrics": {"knn_top1": [0.5, 0.75]}},
            "SimCLR": {"setting": ["objective=simclr"], "metrics": {"knn_top1": [0.5]}},
            "pixels": {"setting": [], "metrics": {"knn_top1": [0.75]}},
        },
    }


def test_a_variant_of_evidence_is_the_command_line_with_its_flags(evidence, monkeypatch, tmp_path):
    table = evidence.Table("fashion_alone", tmp_path, range(2), ["checkpoint.every_steps=3"])
    commands = []

    def run(command, check):
        assert check
        commands.append(command[1:])

    monkeypatch.setattr(evidence.subprocess, "run", run)
    workdir = table.workdir("conv_maps", 1)
    evidence._call(table.config, workdir, table.flags("conv_maps", 1), "train")
    (found,) = commands
    assert found[:4] == ["-m", "lzn_jax.main", "--config=configs/fashion_alone.py", "--mode=train"]
    rest = {f"--workdir={tmp_path}/conv_maps_seed1", "--extensions=benchmarks/set_features.py"}
    rest |= {"--config.seed=1", "--config.decoder.maps_weight=3"}
    rest.add("--config.checkpoint.every_steps=3")
    assert rest < set(found)
    assert not [flag for flag in found if flag.count("--") > 1]


def test_one_pass_has_distances_of_all_generators(evidence, monkeypatch, tmp_path, capsys):
    """Distances of runs are 100 x MeanFlow + 10 x seed + Euler steps."""
    trained = []

    def call(config, workdir, flags, mode):
        values = dict(flag.split("=", 1) for flag in flags)
        mean_flow = values.get("decoder.name") == "mean_ncsnpp"
        distance = 100 * mean_flow + 10 * int(values["seed"]) + int(values["sampling.num_steps"])
        updates = int(values.get("training.num_steps", 7))
        summary = {"step": updates, "fd_features": distance, "reconstruction_l2": distance / 2}
        held = {
            "config": {"training": {"num_steps": updates}},
            "goodput": {"step": 1.0, "starts": 1},
        }
        write(workdir, summary=summary, **held)
        if mode == "train":
            trained.append((Path(config).stem, workdir.name, updates))

    def write(folder, **files):
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / f"{name}.json").write_text(json.dumps(content))

    def distances(*values):
        return [{"fd_features": value} for value in values]

    monkeypatch.setattr(evidence, "_call", call)
    monkeypatch.setattr(evidence, "best_baselines", lambda name: {})
    for flow in ("RF", "LZN"):
        monkeypatch.setitem(evidence.VARIANTS["gen"], flow, ["sampling.num_steps=3"])
    for name, other in {"digits": "energy_2.0", "fashion": "drift_0.5"}.items():
        alone = {"LZN": distances(2.0, 4.0), other: distances(5.0), "conv_maps": distances(6.0)}
        write(tmp_path / f"{name}_alone_evidence", evidence=alone)
    monkeypatch.setattr(sys, "argv", ["", "one_pass", "--seeds=2", f"--folder={tmp_path}"])
    evidence.main()
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines() if "\t" in line]
    flow, mean_flow = ["1", "2", "5", "10", "50"], ["106", "107", "110"]
    both = {label: flow for label in evidence.FLOWS.values()}
    both |= {label: mean_flow for label in evidence.MEAN_FLOWS.values()}
    for name, own in {
        "digits": {evidence.DRIFT: ["3"], evidence.ENERGY: ["5"]},
        "fashion": {evidence.DRIFT: ["5"], evidence.ENERGY: ["3"], evidence.DRIFT_OF_MAPS: ["6"]},
    }.items():
        assert {label: values for n, label, *values in rows if n == name} == both | own
    assert ("digits_gen", "MeanFlow_seed1", 3800) in trained
    assert ("fashion_gen", "MeanFlow_alone_seed0", 2300) in trained
    assert ("digits_gen", "RF_seed0", 7) in trained
    assert ("digits_gen", "RF_seed1", 7) not in trained
    assert (tmp_path / "one_pass.png").stat().st_size > 10_000
