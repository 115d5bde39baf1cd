"""--mode=evaluate of another set than the run's own."""

import json
import types

import pytest

from lzn_jax import configuration
from lzn_jax.evaluation import measurements
from lzn_jax.modes import inference
from lzn_jax.run import workdir as workdirs

FLAGS = [f"text.{name}=2" for name in ("max_length", "context_size")]


@pytest.mark.parametrize(
    ("asked", "summary", "figures"),
    [
        ("held_out", "summary.json", "figures"),
        ("skin_tones", "summary_skin_tones.json", "figures/skin_tones"),
    ],
)
def test_numbers_and_pictures_of_another_set_have_names_of_their_own(
    asked, summary, figures, tmp_path, monkeypatch, caplog
):
    caplog.set_level("INFO", "lzn_jax")
    own = configuration.load("configs/emoji_text.py", FLAGS)
    workdirs.record(own, tmp_path)
    (tmp_path / "summary.json").write_text('{"step": 1}')
    given = []

    def evaluate(*arguments):
        given.extend(arguments)
        return {f"{asked}_examples": 7.0}

    run = types.SimpleNamespace(space="space", step=3)
    monkeypatch.setattr(measurements, "prepare", lambda *arguments: given.extend(arguments))
    monkeypatch.setattr(measurements, "evaluate", evaluate)
    monkeypatch.setattr(inference, "restore", lambda *_: run)
    monkeypatch.setattr(inference.data, "load_data", lambda config: ("train", "test"))
    config = configuration.load("configs/emoji_text.py", [*FLAGS, f"data.test_set={asked}"])
    inference.evaluate(config, tmp_path)
    assert given == ["space", "test", run, "train", "test", tmp_path]
    assert measurements.figures_folder(tmp_path, config) == tmp_path / figures
    assert json.loads((tmp_path / summary).read_text()) == {"step": 3, f"{asked}_examples": 7.0}
    if summary != "summary.json":
        assert (tmp_path / "summary.json").read_text() == '{"step": 1}'
        expected = f"skin_tones is not the run's data set: results go to {summary} and {figures}"
        assert expected in caplog.text
