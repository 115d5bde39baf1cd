"""Linear probes, nearest neighbours and top-k accuracy of representations.

Accuracies of different protocols are not comparable.
"""

import dataclasses
import functools
import itertools
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.optimize
from jaxtyping import Array, Float, Int

from lzn_jax.models import Tree
from lzn_jax.progress import progress


def accuracy(
    scores: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"], top: Sequence[int] = (1, 5)
) -> dict[int, float]:
    """Share of rows whose label is among the k highest scores, by k in `top`.

    Ties go to the lower class, as in argmax. A label with score -inf (a class without votes) or NaN
    counts as wrong for every k. Any k >= c is left out, since every label would count as right.
    """
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    earlier = np.arange(scores.shape[1]) < labels[:, None]
    rank = np.sum((scores > own) | ((scores == own) & earlier), axis=1)
    has_score = own[:, 0] > -np.inf
    return {k: float(np.mean(has_score & (rank < k))) for k in top if k < scores.shape[1]}


# Matrix units may round their inputs to bf16 or tf32, which would reorder neighbours.
_product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
_cross_entropies = optax.softmax_cross_entropy_with_integer_labels

_SIMILARITIES = 2**24  # bytes on the device at once: 64 MiB


def knn_log_votes(
    references: Float[np.ndarray, "n d"],
    reference_labels: Int[np.ndarray, " n"],
    queries: Float[np.ndarray, "m d"],
    *,
    num_classes: int,
    k: int = 20,
    temperature: float = 0.07,
) -> Float[np.ndarray, "m {num_classes}"]:
    """Log of each class's share of the votes of a query's k nearest references.

    A neighbour with cosine similarity s votes for its label with weight exp(s / temperature). A
    class without votes gets -inf. Fewer than k references all vote. Ties in similarity go to the
    earlier reference. The similarity of a row of zeros to every row is 0. The device stores all
    rows.
    """
    points, targets = (jnp.asarray(rows, jnp.float32) for rows in (references, queries))
    labels, k = jnp.asarray(reference_labels, jnp.int32), min(k, len(references))
    return np.asarray(_log_votes(points, labels, targets, temperature, num_classes, k))


@functools.partial(jax.jit, static_argnames=("num_classes", "k"))
def _log_votes(
    references: Array, labels: Array, queries: Array, temperature: Array, num_classes: int, k: int
) -> Array:
    def unit(rows: Array) -> Array:
        norms = jnp.linalg.norm(rows, axis=1, keepdims=True)
        return rows / jnp.where(norms > 0, norms, 1)

    points = unit(references)

    def of_row(query: Array) -> Array:
        similarities, nearest = jax.lax.top_k(_product(points, query), k)
        log_weights = jax.nn.log_softmax(similarities / temperature)
        own = labels[nearest][:, None] == jnp.arange(num_classes)
        return jax.nn.logsumexp(jnp.where(own, log_weights[:, None], -jnp.inf), axis=0)

    batch_size = max(1, _SIMILARITIES // len(references))
    return jax.lax.map(of_row, unit(queries), batch_size=min(batch_size, len(queries)))


class LinearClassifier(NamedTuple):
    """logits = features @ weights + bias, for unnormalised features."""

    weights: Float[np.ndarray, "d c"]
    bias: Float[np.ndarray, " c"]

    def __call__(self, features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n c"]:
        """Logits, float32."""
        return np.asarray(features, np.float32) @ self.weights + self.bias


# Rotating features to their principal axes does not change the penalty. The weight of an axis of
# variance v is measured in units of 1 / sqrt(v * curvature + penalty). The curvature is then about
# equal along all coordinates, and L-BFGS needs few steps. The bias is the weight of a constant
# feature. scikit-learn's LogisticRegression takes ten times longer.

PENALTIES = tuple(10.0**power for power in range(1, -7, -1))  # strong to weak
_HELD_OUT_SHARE = 0.15
_MAX_ITERATIONS = 1_000


def fit_cached(
    features: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    num_classes: int,
    *,
    penalties: Sequence[float] = PENALTIES,
    seed: int = 0,
) -> tuple[LinearClassifier, float]:
    """Classifier by L2-regularised multinomial logistic regression, and chosen penalty.

    Minimises mean cross-entropy + penalty / 2 * |weights|², for weights of features standardised by
    their mean and standard deviation. scikit-learn's C is 1 / (n * penalty). The penalty is chosen
    by cross-entropy on a held-out 15 % of each class: the last of `penalties`, from strong to weak,
    before the cross-entropy first rises. The final fit uses all rows. The device stores the
    features and computes in float32.

    Warns (RuntimeWarning) if the final fit has not converged. Raises ValueError for features that
    are not finite.
    """
    from sklearn.preprocessing import StandardScaler  # here, as it takes a second

    scaler = StandardScaler()
    inputs = jnp.asarray(scaler.fit_transform(features), jnp.float32)
    moments = np.asarray(_product(inputs.T, inputs), np.float64) / len(features)
    variances, axes = np.linalg.eigh(moments)
    inputs = _product(inputs, jnp.asarray(axes, jnp.float32))
    inputs = jnp.pad(inputs, ((0, 0), (0, 1)), constant_values=1)
    fit = functools.partial(
        _minimise, inputs, jnp.asarray(labels, jnp.int32), np.append(np.maximum(variances, 0), 1)
    )
    held_out = _hold_out(labels, seed)
    params = np.zeros((features.shape[1] + 1, num_classes))
    best_loss, best, chosen = np.inf, params, penalties[0]
    with progress(len(penalties), "linear probe", unit="fit", brief=True) as bar:
        for penalty in penalties:
            params, _ = fit(~held_out, penalty, params, 1e-4)
            losses = _cross_entropies(_product(inputs[held_out], params), labels[held_out])
            if (loss := float(losses.mean())) > best_loss:
                break
            best_loss, best, chosen = loss, params, penalty
            bar.update()
    params, is_exhausted = fit(np.ones_like(held_out), chosen, best, 1e-5)
    if is_exhausted:
        message = f"the linear probe has not converged in {_MAX_ITERATIONS} steps"
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    weights = axes @ params[:-1] / scaler.scale_[:, None]
    bias = params[-1] - scaler.mean_ @ weights
    return LinearClassifier(weights.astype(np.float32), bias.astype(np.float32)), chosen


def _hold_out(labels: np.ndarray, seed: int) -> np.ndarray:
    """Mask of held-out rows, a share of each class and at least one of two or more rows."""
    rng = np.random.default_rng(seed)
    held_out = np.zeros(len(labels), bool)
    for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
        share = max(1, round(_HELD_OUT_SHARE * count)) if count > 1 else 0
        held_out[rng.permutation(np.flatnonzero(labels == label))[:share]] = True
    return held_out


def _minimise(
    inputs: Array,
    labels: Array,
    variances: np.ndarray,
    rows: np.ndarray,
    penalty: float,
    start: np.ndarray,
    tolerance: float,
) -> tuple[np.ndarray, bool]:
    """Minimiser (d + 1, c) for the chosen rows, with the bias last, and whether steps ran out."""
    num_classes = start.shape[1]
    curvature = (1 - 1 / num_classes) / num_classes  # of the softmax at equal probabilities
    penalties = np.append(np.full(len(start) - 1, penalty), 0.0)[:, None]
    unit = 1 / np.sqrt(variances[:, None] * curvature + penalties)
    shares = jnp.asarray(rows / rows.sum(), jnp.float32)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        params = unit * flat.reshape(start.shape)
        on_device = jnp.asarray(params, jnp.float32)
        losses, gradient = jax.device_get(_losses_and_gradient(on_device, inputs, labels, shares))
        # Computed in float64, because the line search compares nearly equal values.
        loss = np.sum(losses, dtype=np.float64) + np.sum(penalties * params**2) / 2
        return float(loss), (unit * (gradient + penalties * params)).ravel()

    result = scipy.optimize.minimize(
        objective,
        (start / unit).ravel(),
        jac=True,
        method="L-BFGS-B",
        options={"gtol": tolerance, "ftol": 0, "maxiter": _MAX_ITERATIONS},
    )
    return unit * result.x.reshape(start.shape), result.status == 1


@jax.jit
def _losses_and_gradient(
    params: Array, inputs: Array, labels: Array, shares: Array
) -> tuple[Array, Array]:
    """Losses of the rows times their shares, and the gradient of their sum."""

    def total(params: Array) -> tuple[Array, Array]:
        losses = shares * _cross_entropies(_product(inputs, params), labels)
        return jnp.sum(losses), losses

    gradient, losses = jax.grad(total, has_aux=True)(params)
    return losses, gradient


# These protocols train on augmented images, whose features change in every epoch.


@dataclasses.dataclass(frozen=True)
class Protocol:
    """Training of a linear classifier on unnormalised features of augmented images."""

    epochs: int
    batch_size: int  # as in the literature; other sizes work too
    distorts: bool  # whether to jitter colours and blur in addition to cropping
    optimizer: Callable[[int, int], optax.GradientTransformation]  # from steps, batch size


def _nesterov(num_steps: int, batch_size: int) -> optax.GradientTransformation:
    rate = optax.cosine_decay_schedule(0.1 * batch_size / 256, num_steps)
    return optax.sgd(rate, momentum=0.9, nesterov=True)


PROTOCOLS = {
    # Paper D.3, with batch size and weight decay of its released code, and a constant learning
    # rate.
    "paper": Protocol(300, 8192, True, lambda *_: optax.adamw(3e-4, weight_decay=0.0)),
    # Chen et al. 2020 (arXiv:2002.05709), B.6, with the augmentation of B.5.
    "simclr": Protocol(90, 4096, False, _nesterov),
}


def train_linear(
    batches: Iterable[tuple[Mapping[str, object], Int[Array | np.ndarray, " b"]]],
    dims: Mapping[str, int],
    num_classes: int,
    optimizer: optax.GradientTransformation,
    num_steps: int,
) -> dict[str, LinearClassifier]:
    """Linear classifier for each feature name, after `num_steps` steps from zero weights.

    `batches` yields global batches of features (b, dims[name]) by name and labels (b,). The
    classifiers are independent. They share batches because encoding dominates the cost.
    """

    def loss(params: Tree, features: Mapping[str, Array], labels: Array) -> Tree:
        logits = [_product(features[name], w) + bias for name, (w, bias) in params.items()]
        return sum(jnp.mean(_cross_entropies(each, labels)) for each in logits)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def update(params: Tree, state: Tree, features: Mapping[str, Array], labels: Array) -> Tree:
        gradient = jax.grad(loss)(params, features, labels)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    params: Tree = {
        name: (jnp.zeros((dim, num_classes)), jnp.zeros(num_classes)) for name, dim in dims.items()
    }
    state = optimizer.init(params)
    with progress(num_steps, "linear probe") as bar:
        for features, labels in itertools.islice(batches, num_steps):
            params, state = update(params, state, features, labels)
            bar.update()
    return {name: LinearClassifier(*each) for name, each in jax.device_get(params).items()}
