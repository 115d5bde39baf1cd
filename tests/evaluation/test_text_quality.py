"""Shares, distances and probes of captions, by hand."""

import types

import numpy as np
import pytest

from lzn_jax.data import captions
from lzn_jax.evaluation.text_quality import TextQuality, shares, total_variation
from lzn_jax.latent_space import Model


def test_total_variation_by_hand():
    assert total_variation(["a", "a", "b", "c"], ["a", "b", "b", "d"]) == pytest.approx(0.5)
    assert total_variation(["a", "b"], ["a", "b", "a", "b"]) == 0
    assert total_variation(["a"], ["b", "c"]) == 1


def test_shares_by_hand():
    asked = captions.parse(["a bold seven leaning left", "a thin one leaning right"])
    found = captions.parse(["a bold seven leaning right", "no caption"])
    assert shares("x", found, asked) == {
        "x_digit": 0.5, "x_weight": 0.5, "x_lean": 0.0, "x_exact": 0.0
    }  # fmt: skip


def test_a_probe_finds_what_anchors_tell_of_captions_that_it_did_not_see():
    rows = [(d, w, lean) for d in range(10) for w in range(3) for lean in range(3)]
    texts = captions.compose(captions.Parts(*np.array(rows).T))
    digits = np.eye(10)[[d for d, _, _ in rows]]
    leans = np.eye(3)[[lean for _, _, lean in rows]]  # and nothing of the weight
    anchors = np.concatenate([digits, leans], axis=1).astype(np.float32)
    context = {
        "text_anchors": np.concatenate([anchors, np.full((2, 13), np.nan, np.float32)]),
        "text_log_weights": np.array([0.0] * 90 + [-np.inf] * 2),  # of which the last are none
    }
    quality = object.__new__(TextQuality)
    quality.tasks = types.SimpleNamespace(
        texts=lambda model, numbers: texts[numbers].tolist(),
        tokenizer=types.SimpleNamespace(canonical=list),
    )
    found = quality._embedding(Model({}, context))
    assert found["text_probe_digit"] == found["text_probe_lean"] == 1
    assert found["text_probe_weight"] < 0.5
    context["text_anchors"][3] = np.inf  # of a run that diverged
    assert quality._embedding(Model({}, context)) == {}
