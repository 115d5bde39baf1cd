"""Measurement of runs with texts: retrieval, and the quality of translations from and to texts."""

from pathlib import Path

from lzn_jax.data import Examples
from lzn_jax.data.examples import decoded
from lzn_jax.data_types.text import NAME
from lzn_jax.evaluation import retrieval, text_quality
from lzn_jax.evaluation.digit_captions import DigitCaptions
from lzn_jax.evaluation.measurements import figures_folder, readable_rows
from lzn_jax.trained_model import TrainedModel


def measure(
    model: TrainedModel, train: Examples, test: Examples, workdir: Path
) -> dict[str, float]:
    """Metrics of test examples whose text has tokens and whose main sample is readable."""
    pairs = decoded(test, readable_rows(model, test))
    if len(pairs.labels) == 0 or model.main_type == NAME:
        return {}
    path = figures_folder(workdir, model.config) / "retrieval.png"
    metrics = retrieval.measure(model, pairs, path)
    if NAME not in model.space.decoders:
        return metrics
    is_image = model.space.types[model.main_type].is_images
    if is_image and model.config.data.name == "digits":  # captions can be checked on the image
        return metrics | DigitCaptions(model, train)(pairs)
    return metrics | text_quality.measure(model, pairs)
