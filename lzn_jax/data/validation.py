"""A random stratified part of the examples, for tests or for choosing settings."""

import numpy as np
from jaxtyping import Bool, Int, Shaped

from lzn_jax.configuration import UserError


def set_apart(
    labels: Shaped[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"] | None,
    count: int,
    seed: int,
    field: str = "data.validation",
) -> Bool[np.ndarray, " n"]:
    """Mask of about `count` examples out of n, stratified by class, or by text for texts as labels.

    Groups are never divided: the part exceeds `count` if its last group does. The class of a group
    is that of its first example. Raises UserError, naming the `field`, if no example is left.
    """
    names, first, member = np.unique(
        np.arange(len(labels)) if groups is None else groups,
        return_index=True,
        return_inverse=True,
    )
    sizes, classes = np.bincount(member, minlength=len(names)), labels[first]
    # Systematic sampling: the position of a group in its shuffled class, as a share of the class.
    rng, place = np.random.default_rng(seed), np.empty(len(names))
    ends = np.cumsum(np.unique(classes, return_counts=True)[1])
    for members in np.split(np.argsort(classes, kind="stable"), ends[:-1]):
        rows = rng.permutation(members)
        before = np.cumsum(sizes[rows]) - sizes[rows]
        place[rows] = (before + rng.random()) / sizes[rows].sum()
    order = np.argsort(place, kind="stable")
    chosen = np.zeros(len(names), bool)
    chosen[order] = np.cumsum(sizes[order]) - sizes[order] < count
    if chosen.all():
        raise UserError(f"{field} must leave some of {len(labels)} training examples, got {count}")
    is_apart: np.ndarray = chosen[member]
    return is_apart
