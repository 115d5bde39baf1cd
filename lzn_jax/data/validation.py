"""Training examples set apart by a seed, to choose settings on."""

import numpy as np
from jaxtyping import Bool, Int

from lzn_jax.configuration import UserError


def set_apart(
    labels: Int[np.ndarray, " n"], groups: Int[np.ndarray, " n"] | None, count: int, seed: int
) -> Bool[np.ndarray, " n"]:
    """Which of n training examples are the validation part: `count`, in the classes' proportions.

    A group is never divided: the part grows beyond `count` to complete its last one, whose class is
    that of its first example. Raises UserError where nothing is left to train on.
    """
    names, first, member = np.unique(
        np.arange(len(labels)) if groups is None else groups,
        return_index=True,
        return_inverse=True,
    )
    sizes, classes = np.bincount(member, minlength=len(names)), labels[first]
    # Systematic sampling: a group's place in its class, shuffled, as a share of that class.
    rng, place = np.random.default_rng(seed), np.empty(len(names))
    for label in np.unique(classes):
        rows = rng.permutation(np.flatnonzero(classes == label))
        before = np.cumsum(sizes[rows]) - sizes[rows]
        place[rows] = (before + rng.random()) / sizes[rows].sum()
    order = np.argsort(place, kind="stable")
    chosen = np.zeros(len(names), bool)
    chosen[order] = np.cumsum(sizes[order]) - sizes[order] < count
    if chosen.all():
        raise UserError(
            f"data.validation must leave some of {len(labels)} training examples, got {count}"
        )
    found: np.ndarray = chosen[member]
    return found
