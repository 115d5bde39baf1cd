"""Shares, distances and probes of captions, by hand."""

import types

import numpy as np
import pytest
import small

from lzn_jax.data import Examples, captions
from lzn_jax.evaluation.texts import DigitCaptions, shares, total_variation

ASKED = ["a bold seven leaning left", "a thin zero leaning right"]
WRITTEN = ["a bold seven leaning right", "a zero"]  # the first has digit and weight right


def quality_of(found, **members):
    """Quality of a run that makes the same of everything; images are measured as captions."""
    quality = object.__new__(DigitCaptions)
    quality.model = types.SimpleNamespace(
        translate=lambda *_: found, generate=lambda *_: found, **members
    )
    quality.image, quality.label, quality._canonical = "image", "label", list
    quality.measured = captions.parse
    return quality


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
    quality = quality_of(
        None,
        model=types.SimpleNamespace(context=context),
        context_samples=lambda name, numbers: texts[numbers].tolist(),
    )
    found = quality._embedding()
    assert found["text_probe_digit"] == found["text_probe_lean"] == 1
    assert found["text_probe_weight"] < 0.5
    context["text_anchors"][3] = np.inf  # of a run that diverged
    assert quality._embedding() == {}


def test_each_task_is_compared_with_what_was_asked():
    test, quality = (
        Examples(np.array(ASKED), np.array([7, 0]), np.array(ASKED)),
        quality_of(WRITTEN),
    )
    parts = {"digit": 0.5, "weight": 0.5, "lean": 0.0, "exact": 0.0}
    written = {f"image_to_text_{part}": share for part, share in parts.items()}
    assert quality._image_to_text(test) == written
    assert quality._label_to_text(test) == {"label_to_text_digit": 0.5}
    made = {f"text_to_image_{part}": share for part, share in parts.items()}
    made |= {f"real_image_{part}": 1.0 for part in parts}
    assert quality._text_to_image(test) == made


def test_texts_and_images_of_the_prior_are_captions_of_all_digits_and_fit_theirs():
    drawn = {"images": np.array(WRITTEN), "texts": np.arange(2)}
    quality = quality_of(
        [ASKED[1], "a zero", ASKED[1], ASKED[0]],
        config=small.config(evaluation__num_samples=2),
        draw=lambda count: drawn,
        context_samples=lambda name, numbers: ASKED,
    )
    quality._captions = [*ASKED, *ASKED]
    found = quality._from_prior()
    assert found["text_well_formed"] == 0.75
    assert found["text_total_variation"] == pytest.approx(0.25)
    assert [found[f"prior_image_{part}"] for part in ("digit", "weight", "lean")] == [0.5, 0.5, 0]
