"""What trained models make of labels, by the noise scale α of the labels' latents.

    python benchmarks/noise_scale.py results/digits_text results/digits_alone --scales 0 0.45 1

Texts: the share with the digit of the label, the number of distinct texts, and the mean over
classes of the total variation to the captions of the class. Images: the share that a classifier of
real images recognises as the label, fd_features and recall. The reference is the evaluation set of
the run for texts, the validation set if it has one, and the training images for images.
"""

from pathlib import Path

import numpy as np
import shared

import lzn_jax
from lzn_jax import data
from lzn_jax.data import Examples, digit_captions
from lzn_jax.evaluation.samples import SampleQuality, fit_judge
from lzn_jax.evaluation.texts import total_variation
from lzn_jax.trained_model import TrainedModel

TEXTS_A_LABEL = 100


def of_texts(model: TrainedModel, scale: float, measured: Examples) -> dict[str, float]:
    labels = np.repeat(np.arange(model.config.data.num_classes), TEXTS_A_LABEL)
    texts = np.array(model.translate(labels, "label", "text", noise_scale=scale))
    canonical = model.space.encoders["text"].tokenizer.canonical
    assert measured.texts is not None
    real = np.array(canonical(measured.texts))
    by_class = [
        total_variation(real[measured.labels == label], texts[labels == label])
        for label in np.unique(measured.labels)
    ]
    return {
        "digit": float(np.mean(digit_captions.parse(list(texts), canonical).digit == labels)),
        "distinct texts": len(set(texts.tolist())),
        "total variation": float(np.mean(by_class)),
    }


def of_images(
    model: TrainedModel, scale: float, train: Examples, measure: SampleQuality
) -> dict[str, float]:
    """Metrics of images of labels."""
    count, classes = model.config.evaluation.num_samples, model.config.data.num_classes
    labels = np.arange(count) % classes
    images = model.translate(labels, "label", "image", noise_scale=scale)
    quality = measure(train, images)
    return {
        "of the class": float(np.mean(fit_judge(train)(images) == labels)),
        **{name: quality[name] for name in ("fd_features", "recall")},
    }


def main() -> None:
    parser = shared.parser(__doc__)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--scales", type=float, nargs="+", default=[0, 0.2, 0.45, 0.6, 0.8, 1])
    arguments = parser.parse_args()
    for run in arguments.runs:
        model = lzn_jax.load(run)
        train, measured = data.load_data(model.config)
        quality = SampleQuality(model.config)
        print(f"{run}, step {model.step}")
        for scale in arguments.scales:
            metrics = {"α": scale}
            if ("label", "text") in model.translations:
                metrics |= of_texts(model, scale, measured)
            metrics |= of_images(model, scale, train, quality)
            print(shared.line(metrics), flush=True)


if __name__ == "__main__":
    main()
