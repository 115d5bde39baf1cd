"""What captions of digits, and digits made of captions, have right, part by part."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lzn_jax.data import Examples, captions, digits
from lzn_jax.evaluation.judge import fit_judge
from lzn_jax.latent_space import Model
from lzn_jax.tasks import Tasks

MIN_PROBED = 10  # captions; of fewer a fifth is none
PARTS = captions.Parts._fields


class TextQuality:
    """Measures a space of digits, labels and captions; a judge and a ruler are fit on real digits.

    Beside each share stands what real digits have of it, as `real_...`: the most that one can ask.
    """

    def __init__(self, tasks: Tasks, train: Examples) -> None:
        self.tasks, self.config = tasks, tasks.config
        self._judge = fit_judge(train)
        self._ruler = digits.ruler()
        self._captions = tasks.tokenizer.canonical(_texts(train))

    def __call__(self, model: Model, test: Examples) -> dict[str, float]:
        """Metrics of each pair of types that has texts at one end."""
        return {
            **self._image_to_text(model, test),
            **self._text_to_label(model, test),
            **self._text_to_image(model, test),
            **self._label_to_text(model, test),
            **self._from_prior(model),
            **self._embedding(model),
        }

    def measured(self, images: UInt8[np.ndarray, "n h w 1"]) -> captions.Parts:
        """What images are a picture of, by the judge and the ruler."""
        return self._ruler.measure(images, np.asarray(self._judge(images)))

    def _image_to_text(self, model: Model, test: Examples) -> dict[str, float]:
        texts = self.tasks.translate(model, test.images, "image", "text")
        return shares("image_to_text", self._parse(texts), captions.parse(_texts(test)))

    def _parse(self, texts: list[str]) -> captions.Parts:
        return captions.parse(texts, self.tasks.tokenizer.canonical)

    def _text_to_label(self, model: Model, test: Examples) -> dict[str, float]:
        labels = self.tasks.translate(model, _texts(test), "text", "label")
        return {"text_to_label_accuracy": float(np.mean(labels == test.labels))}

    def _text_to_image(self, model: Model, test: Examples) -> dict[str, float]:
        images, asked = self.tasks.translate(model, _texts(test), "text", "image"), _texts(test)
        return {
            **shares("text_to_image", self.measured(images), captions.parse(asked)),
            **shares("real_image", self.measured(test.images), captions.parse(asked)),
        }

    def _label_to_text(self, model: Model, test: Examples) -> dict[str, float]:
        texts = self.tasks.translate(model, test.labels, "label", "text")
        return {"label_to_text_digit": float(np.mean(self._parse(texts).digit == test.labels))}

    def _from_prior(self, model: Model) -> dict[str, float]:
        """Of texts how many are captions, and how far their shares are from the training captions'.

        Of images that were told a caption, how many fit it: that in whose zone, of its class's,
        their latent lies.
        """
        texts = self.tasks.translate(model, None, None, "text", count=len(self._captions))
        again = np.random.default_rng(0).choice(self._captions, len(self._captions))
        found = {
            "text_well_formed": float(np.mean(self._parse(texts).digit >= 0)),
            "text_total_variation": total_variation(self._captions, texts),
            "real_text_total_variation": total_variation(self._captions, again),
        }
        drawn = self.tasks.draw_any(model, self.config.evaluation.num_samples)
        if "texts" in drawn:
            told = self._parse(self.tasks.texts(model, drawn["texts"]))
            found |= shares("prior_image", self.measured(drawn["images"]), told)
        return found

    def _embedding(self, model: Model) -> dict[str, float]:
        """Accuracy of a linear probe of each part on anchors of captions that it did not see."""
        known = np.flatnonzero(np.isfinite(np.asarray(model.context["text_log_weights"])))
        anchors = np.asarray(model.context["text_anchors"])[known]
        if len(anchors) < MIN_PROBED or not np.isfinite(anchors).all():
            return {}
        parts = self._parse(self.tasks.texts(model, known))
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
    """Between the distributions of two lists of texts, in [0, 1]."""
    names, places = np.unique([*first, *second], return_inverse=True)
    p, q = (
        np.bincount(side, minlength=len(names)) / len(side)
        for side in np.split(places, [len(first)])
    )
    return float(np.abs(p - q).sum() / 2)


def shares(name: str, found: captions.Parts, asked: captions.Parts) -> dict[str, float]:
    """Shares of samples that have each part as asked for, and all of them ('exact')."""
    right: Mapping[str, np.ndarray] = {
        part: getattr(found, part) == getattr(asked, part) for part in PARTS
    }
    right = {**right, "exact": np.logical_and.reduce(list(right.values()))}
    return {f"{name}_{part}": float(np.mean(values)) for part, values in right.items()}
