"""Forms of the alignment loss for pairs, in a loop without configs: gradients and partners found.

    python benchmarks/pair_alignment.py [--seeds 3] [--updates 200] [--views 0.36]

A pair is two views of a digit: its pixels in [-1, 1] with Gaussian noise of the given standard
deviation. Each side has an MLP encoder (64, 256, q) with He initialisation. Prints two tables:

* the norm of the first gradient, by number of zones n and latent dimension q;
* the share of 128 test pairs whose left view decodes to the right one, after updates by Adam
  (learning rate 2e-3, cosine) on 128 training pairs each, with q = 32.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import shared
from sklearn.datasets import load_digits

from lzn_jax import zoning

SCALE = 0.45  # α
SOLVER, FINE = zoning.AdamsBashforth(10), zoning.AdamsBashforth(20)
Form = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def of_latents(loss: Callable[..., tuple[jax.Array, object]], ways: int, **setting: object) -> Form:
    """A form with latents of one way, from left to right, or of both."""

    def form(left: jax.Array, right: jax.Array, key: jax.Array) -> jax.Array:
        def one(source: jax.Array, target: jax.Array, key: jax.Array) -> jax.Array:
            noise = SCALE * jax.random.normal(key, source.shape)
            latents = zoning.compute_latents(source, noise, solver=SOLVER)
            return loss(latents, target, jnp.arange(len(source)), **setting)[0]

        keys = jax.random.split(key)
        pairs = ((left, right), (right, left))[:ways]
        return sum(one(*pair, key) for pair, key in zip(pairs, keys, strict=False)) / ways

    return form


PAPER = zoning.alignment_loss
FORMS: dict[str, Form] = {
    "align": lambda left, right, key: zoning.align(left, right, SCALE, key)[0],
    "Euler(20), cut-off 0.2": of_latents(PAPER, 1, solver=zoning.Euler(20), cutoff=0.2),
    "the same, both ways": of_latents(PAPER, 2, solver=zoning.Euler(20), cutoff=0.2),
    "AdamsBashforth(10), cut-off 0.6": of_latents(PAPER, 1, solver=SOLVER, cutoff=0.6),
    "r = 1": of_latents(zoning.alignment_loss_at, 1, sharpness=1.0),
}


def start(q: int, seed: int) -> dict[str, dict[str, jax.Array]]:
    init, key = jax.nn.initializers.he_normal(), jax.random.key(seed)
    keys = jax.random.split(key, (2, 2))
    return {
        side: {"first": init(first, (64, 256)), "last": init(last, (256, q))}
        for side, (first, last) in zip(("left", "right"), keys, strict=True)
    }


def anchors(params: dict, digits: jax.Array, std: float, key: jax.Array) -> list[jax.Array]:
    """Anchors of a noisy view of each side."""
    views = [digits + std * jax.random.normal(k, digits.shape) for k in jax.random.split(key)]
    sides = zip(params.values(), views, strict=True)
    return [jax.nn.relu(view @ own["first"]) @ own["last"] for own, view in sides]


def loss(params: dict, digits: jax.Array, key: jax.Array, *, form: Form, std: float) -> jax.Array:
    views, noise = jax.random.split(key)
    return form(*anchors(params, digits, std, views), noise)


def first_gradient(form: Form, digits: np.ndarray, n: int, q: int, std: float) -> float:
    rows = np.random.default_rng(0).choice(len(digits), n, replace=n > len(digits))
    gradient = jax.jit(jax.grad(functools.partial(loss, form=form, std=std)))
    return float(optax.tree.norm(gradient(start(q, 0), digits[rows], jax.random.key(1))))


def partners_found(
    form: Form, digits: np.ndarray, seed: int, updates: int, std: float, clip: float | None
) -> float:
    digits, test = np.split(np.random.default_rng(seed).permutation(digits), [-128])
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, updates))
    if clip:
        optimizer = optax.chain(optax.clip_by_global_norm(clip), optimizer)
    key, params = jax.random.key(seed), start(32, seed)
    state = optimizer.init(params)

    @jax.jit
    def step(params: dict, state: object, key: jax.Array) -> tuple[dict, object]:
        rows = jax.random.choice(key, len(digits), (128,), replace=False)
        gradient = jax.grad(functools.partial(loss, form=form, std=std))
        gradients = gradient(params, jnp.asarray(digits)[rows], jax.random.fold_in(key, 1))
        changes, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, changes), state

    for k in range(updates):
        params, state = step(params, state, jax.random.fold_in(key, k))
    left, right = anchors(params, test, std, jax.random.fold_in(key, updates))
    centres = zoning.compute_latents(left, jnp.zeros_like(left), solver=FINE)
    return float(jnp.mean(zoning.classify(centres, right, solver=FINE) == jnp.arange(128)))


def main() -> None:
    parser = shared.parser(__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--views", type=float, default=0.36, help="noise of the two views")
    arguments = parser.parse_args()
    std, digits = arguments.views, np.float32(load_digits().data / 8 - 1)
    sizes = [(n, q) for n in (10, 128, 2048) for q in (8, 64, 256)]
    table = [["first gradient", *(f"{n}, {q}" for n, q in sizes)]]
    for name, form in FORMS.items():
        table.append([name, *(f"{first_gradient(form, digits, *s, std):.1f}" for s in sizes)])
    shared.print_table(table)
    table = [["partners found", "as it is", "gradients clipped to 1"]]
    for name, form in FORMS.items():
        found = [
            [
                partners_found(form, digits, seed, arguments.updates, std, clip)
                for seed in range(arguments.seeds)
            ]
            for clip in (None, 1.0)
        ]
        table.append([name, *(f"{np.mean(f):.3f} ({min(f):.3f} to {max(f):.3f})" for f in found)])
        print(table[-1], flush=True)
    shared.print_table(table)


if __name__ == "__main__":
    main()
