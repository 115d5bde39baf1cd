"""Correctness of captions of digits, and of digits generated from captions, by caption part."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lzn_jax.data import Examples, captions, digits
from lzn_jax.data_types.text import NAME
from lzn_jax.evaluation.judge import fit_judge
from lzn_jax.trained_model import TrainedModel

MIN_PROBED = 10  # captions; fewer are too few for five folds
PARTS = captions.Parts._fields


class DigitCaptions:
    """Measures a space of digits, labels and captions by a judge and a ruler fitted to real digits.

    Metrics `real_...` are those of real digits, as upper references.
    """

    def __init__(self, model: TrainedModel, train: Examples) -> None:
        self.model, self.image, self.label = model, model.main_type, model.class_type
        self._judge = fit_judge(train)
        self._ruler = digits.ruler()
        self._canonical = model.space.encoders[NAME].tokenizer.canonical
        self._captions = self._canonical(_texts(train))

    def __call__(self, test: Examples) -> dict[str, float]:
        """Metrics of every task from or to texts, of prior samples and of the texts' anchors."""
        return {
            **self._image_to_text(test),
            **self._text_to_image(test),
            **self._label_to_text(test),
            **self._from_prior(),
            **self._embedding(),
        }

    def measured(self, images: UInt8[np.ndarray, "n h w 1"]) -> captions.Parts:
        """Caption parts of images, by the judge and the ruler."""
        return self._ruler.measure(images, np.asarray(self._judge(images)))

    def _image_to_text(self, test: Examples) -> dict[str, float]:
        texts = self.model.translate(test.images, self.image, NAME)
        return shares("image_to_text", self._parse(texts), captions.parse(_texts(test)))

    def _parse(self, texts: list[str]) -> captions.Parts:
        return captions.parse(texts, self._canonical)

    def _text_to_image(self, test: Examples) -> dict[str, float]:
        images = self.model.translate(_texts(test), NAME, self.image)
        expected = captions.parse(_texts(test))
        return {
            **shares("text_to_image", self.measured(images), expected),
            **shares("real_image", self.measured(test.images), expected),
        }

    def _label_to_text(self, test: Examples) -> dict[str, float]:
        if self.label is None:
            return {}
        texts = self.model.translate(test.labels, self.label, NAME)
        return {"label_to_text_digit": float(np.mean(self._parse(texts).digit == test.labels))}

    def _from_prior(self) -> dict[str, float]:
        """Metrics of texts and images of the prior.

        Texts: share of well-formed captions, total variation from the training captions. Images:
        shares that agree with the caption of their condition, the one of their class whose zone
        contains their latent.
        """
        texts = self.model.generate(NAME, len(self._captions))
        resampled = np.random.default_rng(0).choice(self._captions, len(self._captions))
        metrics = {
            "text_well_formed": float(np.mean(self._parse(texts).digit >= 0)),
            "text_total_variation": total_variation(self._captions, texts),
            "real_text_total_variation": total_variation(self._captions, resampled),
        }
        drawn = self.model.draw(self.model.config.evaluation.num_samples)
        if "texts" in drawn:
            expected = self._parse(self.model.context_samples(NAME, drawn["texts"]))
            metrics |= shares("prior_image", self.measured(drawn["images"]), expected)
        return metrics

    def _embedding(self) -> dict[str, float]:
        """Cross-validated accuracy of a linear probe of each part on the captions' anchors."""
        context = self.model.model.context
        known = np.flatnonzero(np.isfinite(np.asarray(context["text_log_weights"])))
        anchors = np.asarray(context["text_anchors"])[known]
        if len(anchors) < MIN_PROBED or not np.isfinite(anchors).all():
            return {}
        parts = self._parse(self.model.context_samples(NAME, known))
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        folds = KFold(5, shuffle=True, random_state=0)
        return {
            f"text_probe_{name}": float(np.mean(cross_val_score(probe, anchors, values, cv=folds)))
            for name, values in parts._asdict().items()
        }


def _texts(examples: Examples) -> np.ndarray:
    assert examples.texts is not None
    return examples.texts


def total_variation(first: Sequence[str] | np.ndarray, second: Sequence[str] | np.ndarray) -> float:
    """Total variation distance, in [0, 1], between the distributions of two lists of texts."""
    texts, indices = np.unique([*first, *second], return_inverse=True)
    p, q = (
        np.bincount(side, minlength=len(texts)) / len(side)
        for side in np.split(indices, [len(first)])
    )
    return float(np.abs(p - q).sum() / 2)


def shares(name: str, measured: captions.Parts, expected: captions.Parts) -> dict[str, float]:
    """Shares of samples with the expected value of each part, and of all parts ('exact')."""
    is_right = {part: getattr(measured, part) == getattr(expected, part) for part in PARTS}
    is_right["exact"] = np.all(list(is_right.values()), axis=0)
    return {f"{name}_{part}": float(np.mean(values)) for part, values in is_right.items()}
