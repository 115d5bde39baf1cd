"""Curves of metrics: which panels there are, their values and their scales."""

import numpy as np
import pytest

from lzn_jax import plots


def _legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_present_metrics_share_few_panels(tmp_path, drawn):
    steps = np.arange(1, 41)
    metrics = {
        "loss": (steps, 10.0 ** (-steps / 10)),
        "alignment_loss": (steps, np.where(steps == 7, np.nan, 1.0)),
        "test_accuracy": (np.array([20, 40]), np.array([0.5, 0.9])),
        "knn_top1_latent": (np.array([40]), np.array([0.875])),
        "steps_per_second": (np.array([1]), np.array([np.nan])),
        "unknown": (steps, steps.astype(float)),
    }
    plots.curves(tmp_path / "a.png", metrics)
    losses, accuracies = drawn[0].axes
    assert [each.get_title("left") for each in (losses, accuracies)] == ["Losses", "Accuracy"]
    assert _legend(losses) == ["loss", "alignment loss"]
    assert _legend(accuracies) == ["test accuracy", "knn top1 latent (87.5%)"]
    assert 7 not in losses.get_lines()[1].get_xdata()
    line, once = accuracies.get_lines()
    np.testing.assert_array_equal(line.get_xydata(), [[20, 0.5], [40, 0.9]])
    assert (once.get_ydata(), once.get_marker()) == ([0.875, 0.875], "None")  # no dot


def test_what_is_measured_once_is_in_the_caption_not_a_dot_on_axes(tmp_path, drawn):
    steps, once = np.arange(1, 41), np.array([2000])
    metrics = {
        "loss": (steps, 1.0 / steps),
        "fd_features": (once, np.array([4.234])),
        "reconstruction_l2": (once, np.array([0.1486])),
        "test_accuracy": (once, np.array([0.964])),
    }
    plots.curves(tmp_path / "a.png", metrics)
    assert [axes.get_title("left") for axes in drawn[0].axes] == ["Losses"]
    told = " ".join(drawn[0].get_supxlabel().split())
    assert told == (
        "Measured once: test accuracy 96.4% at step 2,000, fd features 4.23 at step 2,000, "
        "reconstruction error 0.149 at step 2,000."
    )
    plots.curves(tmp_path / "a.png", {"test_accuracy": metrics["test_accuracy"]})
    assert not drawn[1].axes
    assert drawn[1].get_suptitle() == "Training curves"


def test_no_metrics_are_still_a_picture(tmp_path, drawn):
    plots.curves(tmp_path / "a.png", {})
    assert not drawn[0].axes


def test_noise_of_a_flat_curve_does_not_fill_its_panel(tmp_path, drawn):
    values = {"test_accuracy": 0.985, "steps_per_second": 25.0, "reconstruction_l2": 1.5}
    noise, steps = 1 + 0.005 * np.array([-1, 1, 0, 1, -1]), np.arange(5)
    plots.curves(tmp_path / "a.png", {name: (steps, x * noise) for name, x in values.items()})
    for axes in drawn[0].axes:
        low, high = axes.get_ylim()
        assert low <= 0 < axes.get_lines()[0].get_ydata().max() < high


@pytest.mark.parametrize(("last", "scale"), [(0.5, "linear"), (0.05, "linear"), (5e-3, "log")])
def test_log_scales_are_for_several_decades(tmp_path, drawn, last, scale):
    plots.curves(tmp_path / "a.png", {"loss": (np.arange(2), np.array([1.0, last]))})
    assert drawn[0].axes[0].get_yscale() == scale


def test_long_curves_carry_their_running_median(tmp_path, drawn):
    steps = np.arange(1000)
    values = 5.0 + 0.01 * steps
    values[100::100] = 1e6  # a mean would show nothing else
    plots.curves(tmp_path / "a.png", {"loss": (steps, values)})
    raw, smooth = drawn[0].axes[0].get_lines()
    np.testing.assert_array_equal(raw.get_ydata(), values)
    assert smooth.get_ydata().max() < 15.1
    assert 14.7 < smooth.get_ydata()[-1] < 15.0


def test_classification_has_a_panel_for_each_mapping_with_sizes_in_logarithms(tmp_path, drawn):
    plots.classification(tmp_path / "a.png", {1.0: 0.8, 0.0: 0.9}, {1437: 0.9, 36: 0.75}, {})
    alpha, batch = drawn[0].axes
    np.testing.assert_array_equal(alpha.get_lines()[0].get_xydata(), [[0, 0.9], [1, 0.8]])
    assert (alpha.get_xscale(), batch.get_xscale()) == ("linear", "log")
    assert [text.get_text() for text in batch.get_xticklabels()] == ["36", "1,437"]
