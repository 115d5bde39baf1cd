"""What a run prints last."""

import pytest

from lzn_jax.evaluation.headline import most_important, of_evaluation


@pytest.mark.parametrize(
    ("metrics", "lines"),
    [
        (
            {"precision": 0.5, "nearest": 9.0, "fd_features": 1.23456, "sample_accuracy": 0.75}
            | {"reconstruction_l2": 0.125, "test_accuracy": 1.0, "recall": 0.5},
            """step 7, 5 of 7 metrics (all: summary.json):
  test_accuracy      1
  fd_features        1.235
  sample_accuracy    0.75
  reconstruction_l2  0.125
  precision          0.5""",
        ),
        (
            {"own": 0.5, "sound_to_text_exact": 2, "tones_examples": 221.0},
            """step 7 on 221 tones examples, 1 of 3 metrics (all: summary.json):
  sound_to_text_exact  2""",
        ),
        ({"own": 2.0}, "step 7, 1 of 1 metrics (all: summary.json):\n  own  2"),
        ({}, "step 7, 0 of 0 metrics (all: summary.json):"),
    ],
)
def test_an_evaluation_ends_with_its_five_metrics_in_a_column(metrics, lines):
    shown = most_important(metrics, 5)
    assert of_evaluation(7, metrics, shown) == lines.splitlines()
