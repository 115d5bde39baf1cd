"""What captions of digits, and digits made of captions, have right, part by part."""

from collections.abc import Mapping, Sequence

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

MIN_PROBED = 10  # captions; of fewer a fifth is none
PARTS = captions.Parts._fields


class DigitCaptions:
    """Measures a space of digits, labels and captions; a judge and a ruler are fit on real digits.

    Beside each share stands what real digits have of it, as `real_...`: the most that one can ask.
    """

    def __init__(self, model: TrainedModel, train: Examples) -> None:
        self.model, self.image, self.label = model, model.main_type, model.class_type
        self._judge = fit_judge(train)
        self._ruler = digits.ruler()
        self._canonical = model.space.encoders[NAME].tokenizer.canonical
        self._captions = self._canonical(_texts(train))

    def __call__(self, test: Examples) -> dict[str, float]:
        """Metrics of each pair of types that has texts at one end."""
        return {
            **self._image_to_text(test),
            **self._text_to_image(test),
            **self._label_to_text(test),
            **self._from_prior(),
            **self._embedding(),
        }

    def measured(self, images: UInt8[np.ndarray, "n h w 1"]) -> captions.Parts:
        """What images are a picture of, by the judge and the ruler."""
        return self._ruler.measure(images, np.asarray(self._judge(images)))

    def _image_to_text(self, test: Examples) -> dict[str, float]:
        texts = self.model.translate(test.images, self.image, NAME)
        return shares("image_to_text", self._parse(texts), captions.parse(_texts(test)))

    def _parse(self, texts: list[str]) -> captions.Parts:
        return captions.parse(texts, self._canonical)

    def _text_to_image(self, test: Examples) -> dict[str, float]:
        images, asked = self.model.translate(_texts(test), NAME, self.image), _texts(test)
        return {
            **shares("text_to_image", self.measured(images), captions.parse(asked)),
            **shares("real_image", self.measured(test.images), captions.parse(asked)),
        }

    def _label_to_text(self, test: Examples) -> dict[str, float]:
        if self.label is None:
            return {}
        texts = self.model.translate(test.labels, self.label, NAME)
        return {"label_to_text_digit": float(np.mean(self._parse(texts).digit == test.labels))}

    def _from_prior(self) -> dict[str, float]:
        """Of texts how many are captions, and how far their shares are from the training captions'.

        Of images how many fit the caption that was their condition: the one of their class whose
        zone contains their latent.
        """
        texts = self.model.generate(NAME, len(self._captions))
        again = np.random.default_rng(0).choice(self._captions, len(self._captions))
        found = {
            "text_well_formed": float(np.mean(self._parse(texts).digit >= 0)),
            "text_total_variation": total_variation(self._captions, texts),
            "real_text_total_variation": total_variation(self._captions, again),
        }
        drawn = self.model.draw(self.model.config.evaluation.num_samples)
        if "texts" in drawn:
            asked = self._parse(self.model.context_samples(NAME, drawn["texts"]))
            found |= shares("prior_image", self.measured(drawn["images"]), asked)
        return found

    def _embedding(self) -> dict[str, float]:
        """Accuracy of a linear probe of each part on anchors of captions that it did not see."""
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
