"""Which metrics are shown, of all that are measured."""

from lzn_jax.run import log


def test_the_bar_has_the_loss_and_the_accuracy_of_the_first_alignment():
    several = {"loss": 1.5, "generation_loss": 1.0, "gradient_norm": 2.0}
    assert log.of_update(several) == "loss 1.5000"
    several |= {"assignment_accuracy_image:text": 0.25, "assignment_accuracy_image:label": 0.75}
    expected = "loss 1.5000, assignment accuracy image:text 0.2500"
    assert log.of_update(several) == expected


def test_an_evaluation_ends_with_its_five_metrics_in_a_column():
    metrics = {"precision": 0.5, "nearest": 9.0, "fd_features": 1.23456, "sample_accuracy": 0.75}
    metrics |= {"reconstruction_l2": 0.125, "test_accuracy": 1.0, "recall": 0.5}
    assert log.of_evaluation(7, metrics) == [
        "step 7, 5 of 7 metrics (all: summary.json):",
        "  test_accuracy      1",
        "  fd_features        1.235",
        "  sample_accuracy    0.75",
        "  reconstruction_l2  0.125",
        "  precision          0.5",
    ]
    assert log.of_evaluation(7, {"own": 2.0})[1:] == ["  own  2"]
    sounds = ("retrieval_sound_to_text_r1", "retrieval_text_to_sound_r1", "sound_to_text_exact")
    lines = log.of_evaluation(7, dict.fromkeys((*reversed(sounds), "own"), 0.5))
    assert [line.split()[0] for line in lines[1:]] == list(sounds)
    skin_tones = {"skin_tones_examples": 221.0, "recall": 0.5}
    first, _ = log.of_evaluation(7, skin_tones, "summary_skin_tones.json")
    expected = "step 7 on 221 skin tones examples, 1 of 2 metrics (all: summary_skin_tones.json):"
    assert first == expected
    assert log.of_evaluation(7, {}) == ["step 7, 0 of 0 metrics (all: summary.json):"]
