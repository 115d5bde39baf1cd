"""Quality of generated texts, captions of digits and retrieval."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8
from scipy.sparse import csr_array

from lzn_jax import parts, plots
from lzn_jax.data import Examples, decoded, digit_captions
from lzn_jax.data.pixels import evenly_spaced
from lzn_jax.data_types import Samples
from lzn_jax.data_types.text import NAME
from lzn_jax.evaluation.measurements import readable_rows
from lzn_jax.evaluation.samples import fit_judge
from lzn_jax.tokenizers import Tokenizer
from lzn_jax.trained_model import TrainedModel

MIN_PROBED = 10  # least number of captions for five folds
PARTS = digit_captions.Parts._fields


class DigitCaptions:
    """Measures digits, labels and captions by a judge and a ruler fitted to real digits.

    Metrics `real_...` measure real digits, as upper references.
    """

    def __init__(self, model: TrainedModel, train: Examples, ruler: digit_captions.Ruler) -> None:
        self.model, self.image, self.label = model, model.main_type, model.class_type
        self._judge, self._ruler = fit_judge(train), ruler
        self._canonical = model.space.encoders[NAME].tokenizer.canonical
        self._captions = self._canonical(train.texts)

    def __call__(self, test: Examples) -> dict[str, float]:
        """Metrics of every task from or to texts, of prior samples and of the texts' anchors."""
        assert test.texts is not None
        asked, translate = digit_captions.parse(test.texts), self.model.translate
        images = translate(test.texts, NAME, self.image)
        metrics = {
            **shares("image_to_text", self._parse(translate(test.images, self.image, NAME)), asked),
            **shares("text_to_image", self.measured(images), asked),
            **shares("real_image", self.measured(test.images), asked),
        }
        if self.label is not None:
            found = self._parse(translate(test.labels, self.label, NAME)).digit
            metrics["label_to_text_digit"] = float(np.mean(found == test.labels))
        return metrics | self._from_prior() | self._embedding()

    def measured(self, images: UInt8[np.ndarray, "n h w 1"]) -> digit_captions.Parts:
        """Caption parts of images, by the judge and the ruler."""
        return self._ruler.measure(images, np.asarray(self._judge(images)))

    def _parse(self, texts: list[str]) -> digit_captions.Parts:
        return digit_captions.parse(texts, self._canonical)

    def _from_prior(self) -> dict[str, float]:
        """Metrics of prior samples: captions' form and distribution, and images' conditions.

        The condition of an image is the caption of its class whose zone contains its latent.
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
        from sklearn.linear_model import LogisticRegression  # here, as it takes a second
        from sklearn.model_selection import KFold, cross_val_score
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        bank, log_weights, *_ = map(np.asarray, self.model.model.context[NAME])
        known = np.flatnonzero(np.isfinite(log_weights))
        anchors = bank[known]
        if len(anchors) < MIN_PROBED or not np.isfinite(anchors).all():
            return {}
        parts = self._parse(self.model.context_samples(NAME, known))
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        folds = KFold(5, shuffle=True, random_state=0)
        return {
            f"text_probe_{name}": float(np.mean(cross_val_score(probe, anchors, values, cv=folds)))
            for name, values in parts._asdict().items()
        }


def total_variation(first: Sequence[str] | np.ndarray, second: Sequence[str] | np.ndarray) -> float:
    """Total variation distance, in [0, 1], between the distributions of two lists of texts."""
    texts, indices = np.unique([*first, *second], return_inverse=True)
    p, q = (
        np.bincount(side, minlength=len(texts)) / len(side)
        for side in np.split(indices, [len(first)])
    )
    return float(np.abs(p - q).sum() / 2)


def shares(
    name: str, measured: digit_captions.Parts, expected: digit_captions.Parts
) -> dict[str, float]:
    """Shares of samples whose value of each part, and of all parts ('exact'), is as expected."""
    is_right = {part: getattr(measured, part) == getattr(expected, part) for part in PARTS}
    is_right["exact"] = np.all(list(is_right.values()), axis=0)
    return {f"{name}_{part}": float(np.mean(values)) for part, values in is_right.items()}


MAX_WRITTEN = 1000  # test pairs, evenly spaced


def measure_writing(model: TrainedModel, test: Examples) -> dict[str, float]:
    """Measures `image_to_text_exact`, `_words` (an F1 score), `text_to_image_r1` and `_r10`.

    Names use the main type in place of `image`. Generated texts are compared with the tokenizer's
    canonical form of the test texts. Generated samples are compared with texts by the run's
    encoders. Pairs whose text contains no tokens are left out.
    """
    source, types = model.main_type, model.space.types
    tokenizer = model.space.encoders[NAME].tokenizer
    samples = types[NAME].samples(test)
    rows = compared(tokenizer, samples)
    if len(rows) == 0:
        return {}
    texts = [str(text) for text in samples[rows]]
    written = model.translate(types[source].samples(test)[rows], source, NAME)
    metrics = agreement(written, tokenizer.canonical(texts), source)
    if source in model.space.decoders:
        metrics |= recognised(model, model.translate(texts, NAME, source), texts)
    return metrics


def recognised(model: TrainedModel, samples: Samples, texts: Sequence[str]) -> dict[str, float]:
    """`text_to_image_r1`, `_r10`: recall@k from generated main samples to their texts."""
    distinct, text = np.unique(np.array(texts), return_inverse=True)
    queries = embedded(model, samples, model.main_type)
    targets = embedded(model, distinct.tolist(), NAME)
    by_rank = recalls(queries, targets, incidence(text, np.arange(len(text))))
    return {f"{NAME}_to_{model.main_type}_r{k}": recall for k, recall in by_rank.items()}


def compared(tokenizer: Tokenizer, texts: np.ndarray) -> Int[np.ndarray, " k"]:
    """Indices of at most MAX_WRITTEN evenly spaced texts that the tokenizer can encode."""
    rows = tokenizer.readable(texts)
    return rows[evenly_spaced(min(len(rows), MAX_WRITTEN), len(rows))]


def agreement(
    written: Sequence[str], expected: Sequence[str], source: str = "image"
) -> dict[str, float]:
    """`image_to_text_exact`, the share of exact matches, and `_words`, the mean F1 of words."""
    scores = []
    for pair in zip(written, expected, strict=True):
        first, second = (Counter(text.lower().split()) for text in pair)
        scores.append(2 * (first & second).total() / max((first + second).total(), 1))
    exact = np.mean(np.array(written) == np.array(expected))
    name = f"{source}_to_{NAME}"
    return {f"{name}_exact": float(exact), f"{name}_words": float(np.mean(scores))}


RANKS = (1, 10)
SHOWN, NEAREST = 8, 5  # queries per direction in the figure, and results per query
_ROWS_AT_A_TIME = 1024


def measure_retrieval(model: TrainedModel, test: Examples, path: Path) -> dict[str, float]:
    """Measures `retrieval_image_to_text_r1`, `_r10` and the reverse. Draws examples to `path`.

    Names use the main type in place of `image`. Candidates are distinct images or texts, and all
    texts of an image are right, as on Flickr30k and COCO. Equal texts belong to the same images.
    """
    source, types = model.main_type, model.space.types
    every = types[NAME].samples(test)
    rows, first, text, has_text = pairs(test, every)
    samples, texts = types[source].samples(test.at(rows)), every[first]
    points, text_points = embedded(model, samples, source), embedded(model, texts, NAME)
    there = (points, text_points, has_text)
    back = (text_points[text], points, has_text.T.tocsr()[text])
    show = types[source].shown  # takes time, so not of all samples
    drawn = _examples(*there, lambda rows: show(samples[rows]), texts.take)
    drawn += _examples(*back, every.take, lambda rows: show(samples[rows]))
    plots.retrieval(path, drawn)
    metrics: dict[str, float] = {}
    for name, task in ((f"{source}_to_{NAME}", there), (f"{NAME}_to_{source}", back)):
        metrics |= {f"retrieval_{name}_r{k}": recall for k, recall in recalls(*task).items()}
    return metrics


def embedded(model: TrainedModel, samples: Samples, source: str) -> Float[np.ndarray, "n q"]:
    """Points that retrieval compares: centres of zones cut by the anchors of the samples alone.

    For a model trained with CLIP's loss, these are the anchors themselves.
    """
    anchors = model.anchors(samples, source=source)
    if model.config.objective != "lzn":
        return anchors
    return model.draw_latents(anchors, 0.0, source=source, among=anchors[:0])


def _examples(
    queries: np.ndarray,
    candidates: np.ndarray,
    is_right: csr_array,
    asked: Callable[[np.ndarray], Samples],
    results: Callable[[np.ndarray], Samples],
) -> list[tuple[Samples, Samples, list[bool]]]:
    """A few queries, each with the nearest candidates and whether these are right."""
    rows = evenly_spaced(min(SHOWN, len(queries)), len(queries))
    order = np.argsort(-_cosines(queries[rows], candidates), axis=1)[:, :NEAREST]
    return [
        (query, list(results(nearest)), right[nearest].tolist())
        for query, nearest, right in zip(asked(rows), order, is_right[rows].toarray(), strict=True)
    ]


def pairs(
    examples: Examples, texts: np.ndarray
) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " t"], Int[np.ndarray, " n"], csr_array]:
    """Rows of the k distinct images and of the t distinct texts, and the text of each row.

    The last result is the `incidence` of these texts and images.
    """
    ids = np.arange(len(texts)) if examples.image_ids is None else examples.image_ids
    _, rows, image = np.unique(ids, return_index=True, return_inverse=True)
    _, first, text = np.unique(texts, return_index=True, return_inverse=True)
    return rows, first, text, incidence(text, image)


def incidence(text: Int[np.ndarray, " n"], image: Int[np.ndarray, " n"]) -> csr_array:
    """Whether each image is paired with each distinct text (k, t), given both of each pair."""
    return csr_array((np.ones(len(text), bool), (image, text)))


def recalls(
    queries: Float[np.ndarray, "m d"], candidates: Float[np.ndarray, "n d"], is_right: csr_array
) -> dict[int, float]:
    """Share of queries with a right candidate among the k nearest, for each k < n in RANKS.

    `is_right` (m, n) is True for right candidates. Candidates are ranked by cosine similarity. In
    ties, right candidates come last. k = n is left out, since all n candidates include a right one.
    """
    ranks = []
    for start in range(0, len(queries), _ROWS_AT_A_TIME):
        chosen = slice(start, start + _ROWS_AT_A_TIME)
        cosines, right = _cosines(queries[chosen], candidates), is_right[chosen].toarray()
        best = np.max(np.where(right, cosines, -np.inf), axis=1, keepdims=True)
        ranks.append(np.sum(~(cosines < best) & ~right, axis=1))  # NaN counts as nearer
    found = np.concatenate(ranks)
    return {k: float(np.mean(found < k)) for k in RANKS if k < len(candidates)}


def _cosines(queries: np.ndarray, candidates: np.ndarray) -> Float[np.ndarray, "m n"]:
    norms = (np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, candidates))
    one, other = (np.maximum(norm, 1e-30) for norm in norms)
    return (queries / one) @ (candidates / other).T


def measure(
    model: TrainedModel, train: Examples, test: Examples, workdir: Path
) -> dict[str, float]:
    """Metrics of test examples with a readable main sample and a text with tokens."""
    pairs = decoded(test, readable_rows(model, test))
    if len(pairs.labels) == 0 or model.main_type == NAME:
        return {}
    path = workdir / "figures" / "retrieval.png"
    metrics = measure_retrieval(model, pairs, path)
    if NAME not in model.space.decoders:
        return metrics
    ruler = getattr(parts.get("data", model.config.data.name), "ruler", None)
    if ruler and model.space.types[model.main_type].is_images:  # it reads captions off images
        return metrics | DigitCaptions(model, train, ruler())(pairs)
    return metrics | measure_writing(model, pairs)
