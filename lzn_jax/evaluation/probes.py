"""Linear probes of representations by named protocols, and top-k accuracy.

`fit_cached` fits a classifier to precomputed features. `train_linear` trains one on a stream of
features of augmented images, by one of `PROTOCOLS`. Accuracies of different protocols are not
comparable.
"""

import dataclasses
import functools
import itertools
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.optimize
from jaxtyping import Array, Float, Int
from sklearn.preprocessing import StandardScaler

from lzn_jax.run.log import progress

_REFERENCE_ROWS = 16_384  # on the device at once
_QUERY_ROWS = 1_024  # with _REFERENCE_ROWS similarities each at once: 64 MiB

Neighbours = tuple[Float[Array, "m k"], Int[Array, "m k"]]  # descending similarities; labels


def knn_log_votes(
    references: Float[np.ndarray, "n d"],
    reference_labels: Int[np.ndarray, " n"],
    queries: Float[np.ndarray, "m d"],
    *,
    num_classes: int,
    k: int = 20,
    temperature: float = 0.07,
) -> Float[np.ndarray, "m {num_classes}"]:
    """Log of each class's share of the votes of a query's k nearest neighbours in the references.

    A neighbour with cosine similarity s votes for its label with weight exp(s / temperature); a
    class without votes gets -inf. Fewer than k references all vote. Ties in similarity go to the
    earlier reference. A row of zeros has similarity 0 to every row. Device memory holds all
    queries, but only blocks of the references and of the similarities.

    Raises:
        ValueError: there are no references, a label is not in [0, num_classes) or a feature is not
            finite.
    """
    check_features(references, reference_labels, num_classes)
    if not np.isfinite(np.sum(queries, dtype=np.float64)):
        raise ValueError("the features are not finite")
    targets = _unit_rows(jnp.asarray(queries, jnp.float32))
    # Empty places have weight 0 and no class.
    nearest = jnp.full((len(queries), k), -jnp.inf), jnp.full((len(queries), k), -1, jnp.int32)
    with progress(len(references), "nearest neighbours", unit="row", brief=True) as bar:
        for start in range(0, len(references), _REFERENCE_ROWS):
            rows = slice(start, start + _REFERENCE_ROWS)
            block = (
                jnp.asarray(references[rows], jnp.float32),
                jnp.asarray(reference_labels[rows], jnp.int32),
            )
            nearest = _update_nearest(nearest, targets, *block)
            bar.update(len(block[0]))
    return np.asarray(_log_votes(nearest, temperature, num_classes))


def _unit_rows(rows: Float[Array, "n d"]) -> Float[Array, "n d"]:
    norms = jnp.linalg.norm(rows, axis=1, keepdims=True)
    return rows / jnp.where(norms > 0, norms, 1)


@jax.jit
def _update_nearest(
    nearest: Neighbours,
    targets: Float[Array, "m d"],
    references: Float[Array, "n d"],
    labels: Int[Array, " n"],
) -> Neighbours:
    """The k nearest among the neighbours so far and the rows of another block of references."""
    references = _unit_rows(references)

    def update_row(row: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        target, similarities, found_labels = row
        # Matrix units may round their inputs to bf16 or tf32, which would reorder neighbours.
        in_block = jnp.matmul(references, target, precision=jax.lax.Precision.HIGHEST)
        # Earlier rows come first, so that they win ties.
        candidates = jnp.concatenate([similarities, in_block])
        similarities, indices = jax.lax.top_k(candidates, len(found_labels))
        return similarities, jnp.concatenate([found_labels, labels])[indices]

    return jax.lax.map(update_row, (targets, *nearest), batch_size=_QUERY_ROWS)


@functools.partial(jax.jit, static_argnames="num_classes")
def _log_votes(
    nearest: Neighbours, temperature: Float[Array, ""], num_classes: int
) -> Float[Array, "m {num_classes}"]:
    def of_row(row: tuple[Array, Array]) -> Array:
        similarities, labels = row
        log_weights = similarities / temperature
        log_weights = log_weights - jax.nn.logsumexp(log_weights)
        own = labels[:, None] == jnp.arange(num_classes)
        return jax.nn.logsumexp(jnp.where(own, log_weights[:, None], -jnp.inf), axis=0)

    return jax.lax.map(of_row, nearest, batch_size=_QUERY_ROWS)


PENALTIES = tuple(10.0**power for power in range(1, -7, -1))  # strong to weak
_HELD_OUT_SHARE = 0.15
_BLOCK_ROWS = 8_192
_CONVERGED = 1e-4  # largest gradient component in the units of `_minimise`
_TOLERANCE = 1e-5  # the same for the final fit, about the limit of float32
_MAX_ITERATIONS = 1_000


class LinearClassifier(NamedTuple):
    """logits = features @ weights + bias, for unnormalised features."""

    weights: Float[np.ndarray, "d c"]
    bias: Float[np.ndarray, " c"]

    def __call__(self, features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n c"]:
        """Logits, float32."""
        return np.asarray(features, np.float32) @ self.weights + self.bias


def accuracy(
    scores: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"], top: Sequence[int] = (1, 5)
) -> dict[int, float]:
    """Share of rows whose label is among the k highest scores, by k in `top`.

    Ties go to the lower class, as in argmax. A label with score -inf (a class without votes) or NaN
    counts as wrong for every k. Leaves out k >= c, for which every label would count as right.
    """
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    earlier = np.arange(scores.shape[1]) < labels[:, None]
    rank = np.sum((scores > own) | ((scores == own) & earlier), axis=1)
    has_score = own[:, 0] > -np.inf
    return {k: float(np.mean(has_score & (rank < k))) for k in top if k < scores.shape[1]}


def check_features(features: np.ndarray, labels: np.ndarray, num_classes: int) -> None:
    """Raises ValueError for features and labels that a classifier cannot be fitted to."""
    if len(features) != len(labels) or not len(labels):
        raise ValueError(f"{len(features)} rows of features for {len(labels)} labels")
    check_labels(labels, num_classes)
    # The sum is finite if all terms are, and needs no further memory.
    if not np.isfinite(np.sum(features, dtype=np.float64)):
        raise ValueError("the features are not finite")


def check_labels(labels: np.ndarray, num_classes: int) -> None:
    """Raises ValueError for a label outside [0, num_classes)."""
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"labels must be in [0, {num_classes})")


# The cached protocol: L2-regularised multinomial logistic regression on standardised features,
#   mean cross-entropy + penalty / 2 * |weights|^2   (without a penalty on the bias),
# a convex problem. Standardised features are still far from isotropic, so L-BFGS would need many
# steps. They are therefore rotated to their principal axes, which does not change the penalty, and
# the weight of an axis of variance v is scaled in units of 1 / sqrt(v * curvature + penalty), which
# makes the curvature of the objective about equal along all coordinates.
# scikit-learn's LogisticRegression took over 170 s to choose a penalty for 60,000 x 128 correlated
# features; this takes 17 s.


def fit_cached(
    features: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    num_classes: int,
    *,
    penalties: Sequence[float] = PENALTIES,
    seed: int = 0,
) -> tuple[LinearClassifier, float]:
    """L2-regularised multinomial logistic regression: classifier and chosen penalty.

    Minimises mean cross-entropy + penalty / 2 * |weights|², for weights of features standardised
    by the mean and standard deviation of the fitted rows; scikit-learn's C is 1 / (n * penalty).
    The penalty is chosen by cross-entropy on a held-out 15 % of each class: the last of `penalties`
    (in order, strong to weak) before the cross-entropy first rises. The final fit uses all rows.
    Computes in float32 on the device, which holds one copy of the features.

    Warns (RuntimeWarning) if the final fit has not converged.

    Raises:
        ValueError: no class has two rows, a label is not in [0, num_classes) or a feature is not
            finite.
    """
    check_features(features, labels, num_classes)
    held_out = _hold_out(labels, seed)
    fitted = _rotate(features[~held_out], labels[~held_out])
    start = np.zeros((features.shape[1], num_classes)), np.zeros(num_classes)
    best_loss, best = np.inf, (start, penalties[0])
    with progress(len(penalties), "linear probe", unit="fit", brief=True) as bar:
        for penalty in penalties:
            start, _ = _minimise(fitted, penalty, start, _CONVERGED)
            logits = fitted.to_raw(*start)(features[held_out])
            loss = _cross_entropies(logits, jnp.asarray(labels[held_out])).mean()
            if loss > best_loss:
                break
            best_loss, best = loss, (start, penalty)
            bar.update()
    start, penalty = best
    classifier = fitted.to_raw(*start)
    del fitted  # frees device memory for all rows
    everything = _rotate(features, labels)
    params, gradient = _minimise(everything, penalty, everything.from_raw(classifier), _TOLERANCE)
    if gradient > max(_CONVERGED, _resolution(len(features), num_classes)):
        warnings.warn(
            f"the linear probe has not converged: gradient {gradient:.1g} with penalty {penalty}",
            RuntimeWarning,
            stacklevel=2,
        )
    return everything.to_raw(*params), penalty


def _hold_out(labels: np.ndarray, seed: int) -> np.ndarray:
    """Mask of held-out rows: a share of each class, at least one row of a class of two or more."""
    rng = np.random.default_rng(seed)
    held_out = np.zeros(len(labels), bool)
    for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
        share = max(1, round(_HELD_OUT_SHARE * count)) if count > 1 else 0
        held_out[rng.permutation(np.flatnonzero(labels == label))[:share]] = True
    if not held_out.any():
        raise ValueError("no class has two rows, so none can be held out to choose the penalty")
    return held_out


Params = tuple[Float[np.ndarray, "d c"], Float[np.ndarray, " c"]]  # weights, bias


class _Rotated(NamedTuple):
    """Standardised features on their principal axes, in blocks of rows on the device."""

    blocks: list[tuple[Array, Array]]  # features (b, d), labels (b,)
    num_rows: int
    mean: np.ndarray  # (d,), of the raw features
    scale: np.ndarray  # (d,), standard deviations of the raw features
    axes: np.ndarray  # (d, d), orthonormal columns
    variances: np.ndarray  # (d,), along the axes

    def to_raw(self, weights: np.ndarray, bias: np.ndarray) -> LinearClassifier:
        """Classifier of raw features equivalent to these parameters for rotated features."""
        weights = self.axes @ weights / self.scale[:, None]
        bias = bias - self.mean @ weights
        return LinearClassifier(weights.astype(np.float32), bias.astype(np.float32))

    def from_raw(self, classifier: LinearClassifier) -> Params:
        """Inverse of `to_raw`."""
        weights = self.axes.T @ (self.scale[:, None] * classifier.weights)
        return weights, classifier.bias + self.mean @ classifier.weights


def _rotate(features: np.ndarray, labels: np.ndarray) -> _Rotated:
    rows = [slice(start, start + _BLOCK_ROWS) for start in range(0, len(features), _BLOCK_ROWS)]
    scaler = StandardScaler()
    for block in rows:
        scaler.partial_fit(features[block])

    def standardised(block: slice) -> Array:
        return jnp.asarray(scaler.transform(features[block]), jnp.float32)

    moments = sum(_gram(standardised(block)) for block in rows)
    variances, axes = np.linalg.eigh(np.asarray(moments, np.float64) / len(features))
    rotation = jnp.asarray(axes, jnp.float32)
    blocks = [
        (_product(standardised(block), rotation), jnp.asarray(labels[block], jnp.int32))
        for block in rows
    ]
    variances = np.maximum(variances, 0)
    return _Rotated(blocks, len(features), scaler.mean_, scaler.scale_, axes, variances)


@jax.jit
def _product(a: Float[Array, "n d"], b: Float[Array, "d c"]) -> Float[Array, "n c"]:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


@jax.jit
def _gram(a: Float[Array, "n d"]) -> Float[Array, "d d"]:
    return _product(a.T, a)


_cross_entropies = jax.jit(optax.softmax_cross_entropy_with_integer_labels)


@jax.jit
def _add_block(
    params: tuple[Array, Array], gradient: tuple[Array, Array], features: Array, labels: Array
) -> tuple[Array, tuple[Array, Array]]:
    """Losses of the rows of a block, and `gradient` plus the gradient of their sum."""

    def total(params: tuple[Array, Array]) -> tuple[Array, Array]:
        losses = _cross_entropies(_product(features, params[0]) + params[1], labels)
        return jnp.sum(losses), losses

    block_gradient, losses = jax.grad(total, has_aux=True)(params)
    return losses, jax.tree.map(jnp.add, gradient, block_gradient)


def _mean_cross_entropy(params: Params, data: _Rotated) -> tuple[float, Params]:
    """Mean cross-entropy and its gradient.

    Losses are summed in float64, because the line search compares nearly equal values.
    """
    on_device = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), params)
    gradient = jax.tree.map(jnp.zeros_like, on_device)
    losses = []
    for features, labels in data.blocks:
        block_losses, gradient = _add_block(on_device, gradient, features, labels)
        losses.append(block_losses)
    loss = sum(np.sum(block, dtype=np.float64) for block in jax.device_get(losses))
    weights, bias = (np.asarray(a, np.float64) / data.num_rows for a in gradient)
    return float(loss) / data.num_rows, (weights, bias)


def _resolution(num_rows: int, num_classes: int) -> float:
    """Gradient below which float32 cannot resolve whether another step reduces the loss.

    For a mean of n losses of about log c, rounding hides gains below eps log c / sqrt(n); a
    gradient g predicts a gain of g²/2 in units of curvature 1.
    """
    hidden = np.finfo(np.float32).eps * np.log(num_classes) / np.sqrt(num_rows)
    return float(np.sqrt(2 * hidden))


def _minimise(
    data: _Rotated, penalty: float, start: Params, tolerance: float
) -> tuple[Params, float]:
    """Minimiser of the penalised loss, and the largest gradient component there."""
    num_classes = len(start[1])
    curvature = (1 - 1 / num_classes) / num_classes  # of the softmax at equal probabilities
    unit = 1 / np.sqrt(data.variances * curvature + penalty)[:, None]
    bias_unit = 1 / np.sqrt(curvature)

    def unpack(flat: np.ndarray) -> Params:
        return unit * flat[:-num_classes].reshape(-1, num_classes), bias_unit * flat[-num_classes:]

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights, bias = unpack(flat)
        loss, (d_weights, d_bias) = _mean_cross_entropy((weights, bias), data)
        d_weights = unit * (d_weights + penalty * weights)
        gradient = np.concatenate([d_weights.ravel(), bias_unit * d_bias])
        return loss + penalty / 2 * np.sum(weights**2), gradient

    result = scipy.optimize.minimize(
        objective,
        np.concatenate([(start[0] / unit).ravel(), start[1] / bias_unit]),
        jac=True,
        method="L-BFGS-B",
        options={"gtol": tolerance, "ftol": 0, "maxiter": _MAX_ITERATIONS},
    )
    return unpack(result.x), float(np.abs(result.jac).max())


# Protocols that train on augmented images, whose features change in every epoch.


@dataclasses.dataclass(frozen=True)
class Protocol:
    """Training of a linear classifier on unnormalised features of augmented images."""

    epochs: int
    batch_size: int  # as in the literature; other sizes work too
    distorts: bool  # whether to jitter colours and blur, besides cropping
    optimizer: Callable[[int, int], optax.GradientTransformation]  # from steps, batch size


def _adamw(num_steps: int, batch_size: int) -> optax.GradientTransformation:
    del num_steps, batch_size  # constant learning rate
    return optax.adamw(3e-4, weight_decay=0.0)


def _nesterov(num_steps: int, batch_size: int) -> optax.GradientTransformation:
    rate = optax.cosine_decay_schedule(0.1 * batch_size / 256, num_steps)
    return optax.sgd(rate, momentum=0.9, nesterov=True)


PROTOCOLS = {
    # Paper D.3; batch size and weight decay as in its released code.
    "paper": Protocol(epochs=300, batch_size=8192, distorts=True, optimizer=_adamw),
    # Chen et al. 2020 (arXiv:2002.05709), B.6, with the augmentation of B.5.
    "simclr": Protocol(epochs=90, batch_size=4096, distorts=False, optimizer=_nesterov),
}


def train_linear(
    batches: Iterable[tuple[Mapping[str, Any], Int[Array | np.ndarray, " b"]]],
    dims: Mapping[str, int],
    num_classes: int,
    protocol: Protocol,
    num_steps: int,
) -> dict[str, LinearClassifier]:
    """Linear classifier for each feature name, after `num_steps` steps from zero weights.

    `batches` yields features (b, dims[name]) by name and labels (b,); the caller augments and
    encodes the images anew in each epoch. Features are not normalised. The classifiers are
    independent, but share batches because encoding dominates the cost. Learning rates that depend
    on the batch size use the size of the first batch, so batches must be global ones, not those of
    a device.

    Raises:
        ValueError: `batches` ends early, a label is not in [0, num_classes), or the final weights
            are not finite.
    """
    stream = iter(batches)
    first = list(itertools.islice(stream, 1))
    optimizer = protocol.optimizer(num_steps, len(first[0][1]) if first else 0)
    params = {
        name: (jnp.zeros((dim, num_classes)), jnp.zeros(num_classes)) for name, dim in dims.items()
    }
    state = optimizer.init(params)
    done = 0
    with progress(num_steps, "linear probe") as bar:
        for features, labels in itertools.islice(itertools.chain(first, stream), num_steps):
            check_labels(np.asarray(labels), num_classes)
            params, state = _train_step(params, state, features, labels, optimizer=optimizer)
            done += 1
            bar.update()
    if done < num_steps:
        raise ValueError(f"the batches end after {done} of {num_steps} steps")
    classifiers = {
        name: LinearClassifier(*values) for name, values in jax.device_get(params).items()
    }
    for name, values in classifiers.items():
        if not all(np.isfinite(array).all() for array in values):
            raise ValueError(f"the linear probe of {name} diverged, or features are not finite")
    return classifiers


@functools.partial(jax.jit, static_argnames="optimizer", donate_argnames=("params", "state"))
def _train_step(
    params: dict[str, tuple[Array, Array]],
    state: optax.OptState,
    features: Mapping[str, Array],
    labels: Int[Array, " b"],
    *,
    optimizer: optax.GradientTransformation,
) -> tuple[dict[str, tuple[Array, Array]], optax.OptState]:
    def loss(params: dict[str, tuple[Array, Array]]) -> Array:
        losses = [
            jnp.mean(_cross_entropies(_product(features[name], weights) + bias, labels))
            for name, (weights, bias) in params.items()
        ]
        return sum(losses, start=jnp.zeros(()))

    updates, state = optimizer.update(jax.grad(loss)(params), state, params)
    return optax.apply_updates(params, updates), state
