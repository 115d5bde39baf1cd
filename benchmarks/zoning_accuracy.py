"""How many digits of latents and gradients float32 keeps, on anchors that are hard for it.

    python benchmarks/zoning_accuracy.py [--n 256] [--q 128] [--seeds 3]

A row a case: the relative error (Frobenius norm, worst of the seeds) of Euler latents and of the
alignment loss's gradient with respect to both anchor sets, for the flow as the paper writes it
("plain") and for `lzn_jax.zoning` ("zoned"). Both run in float32; the truth is the paper's form in
float64, which takes most of the time: about 4 minutes on 2 cores, and 8 times as long with
--n 512 --q 256.
"""

import argparse
import functools

import jax
import jax.numpy as jnp
import numpy as np

from lzn_jax.zoning import Euler, alignment_loss, compute_latents

T_MIN, CUTOFF, NOISE_SCALE = 1e-4, 0.2, 0.45
CASES = (
    "Gaussian",
    "clustered, std 1e-3, norm 10",
    "pairs 1e-3 apart per coordinate",
    "pairs 1e-4 apart per coordinate",
    "pairs 1e-3 apart in norm",
    "pairs 1e-4 apart in norm",
)


def make_anchors(case: str, n: int, q: int, rng: np.random.Generator) -> np.ndarray:
    """Float32 anchors (n, q)."""
    anchors = rng.normal(size=(n, q))
    if case.startswith("clustered"):
        direction = rng.normal(size=q)
        anchors = 10 * direction / np.linalg.norm(direction) + 1e-3 * anchors
    if case.startswith("pairs"):
        first = anchors[: n - n // 2]
        offsets = rng.normal(size=first.shape)
        if case.endswith("norm"):
            offsets /= np.linalg.norm(offsets, axis=1, keepdims=True)
        anchors = np.concatenate([first, first + float(case.split()[1]) * offsets])[:n]
    return anchors.astype(np.float32)


@jax.checkpoint
def log_assignments(x: jax.Array, t: jax.Array, anchors: jax.Array) -> jax.Array:
    """Log posterior (m, n) from the differences x - (1-t) a, the paper's form."""
    squares = jnp.sum(((x[:, None] - (1 - t) * anchors) / t) ** 2, axis=-1)
    return jax.nn.log_softmax(-0.5 * squares, axis=1)


def plain_latents(anchors: jax.Array, noise: jax.Array, steps: int) -> jax.Array:
    """Euler on t from T_MIN to 1, in x; the velocity is (x - ā) / t."""
    dt = (1 - T_MIN) / steps

    def step(x, k):
        t = T_MIN + k * dt
        mean = jnp.matmul(jnp.exp(log_assignments(x, t, anchors)), anchors, precision="highest")
        return x + dt * (x - mean) / t, None

    times = jnp.arange(steps, dtype=anchors.dtype)
    return jax.lax.scan(step, T_MIN * noise + (1 - T_MIN) * anchors, times)[0]


def plain_loss(latents: jax.Array, anchors: jax.Array, steps: int) -> jax.Array:
    """Log form of the alignment loss, Euler on t from 1 to 0, in x."""

    def step(x, k):
        t = 1 - k / steps
        log_p = log_assignments(x, t, anchors)
        mean = jnp.matmul(jnp.exp(log_p), anchors, precision="highest")
        return x - (x - mean) / t / steps, jnp.diagonal(log_p)

    _, log_own = jax.lax.scan(step, latents, jnp.arange(steps, dtype=anchors.dtype))
    return -jnp.mean(jnp.max(log_own[int(CUTOFF * steps) :], axis=0))


def zoned_latents(anchors: jax.Array, noise: jax.Array, steps: int) -> jax.Array:
    """The same latents by this package."""
    return compute_latents(anchors, noise, solver=Euler(steps, t_min=T_MIN))


def zoned_loss(latents: jax.Array, anchors: jax.Array, steps: int) -> jax.Array:
    """The same loss by this package."""
    targets = jnp.arange(anchors.shape[0])
    return alignment_loss(latents, anchors, targets, solver=Euler(steps), cutoff=CUTOFF)[0]


@functools.partial(jax.jit, static_argnames=("form", "steps"))
def run(anchors, partners, noise, scaled_noise, *, form: str, steps: int):
    """Latents, and both gradients of the loss of latents with scaled noise."""
    latents_of, loss_of = {
        "plain": (plain_latents, plain_loss),
        "zoned": (zoned_latents, zoned_loss),
    }[form]

    def loss(anchors, partners):
        return loss_of(latents_of(anchors, scaled_noise, steps), partners, steps)

    return latents_of(anchors, noise, steps), jax.grad(loss, (0, 1))(anchors, partners)


def relative_errors(outputs, truth) -> list[float]:
    """Relative errors of the latents, the gradient for the anchors, that for their partners."""

    def relative_error(value, reference):
        difference = np.asarray(value, np.float64) - reference
        return float(np.linalg.norm(difference) / np.linalg.norm(reference))

    return jax.tree.leaves(jax.tree.map(relative_error, outputs, truth))


def measure(case: str, n: int, q: int, steps: int, seed: int) -> np.ndarray:
    """Errors (2, 3): plain and zoned; of the latents and of both gradients."""
    rng = np.random.default_rng(seed)
    anchors = make_anchors(case, n, q, rng)
    partners = anchors + 0.5 * rng.normal(size=(n, q)).astype(np.float32)
    noise = rng.normal(size=(n, q)).astype(np.float32)
    inputs = (anchors, partners, noise, np.float32(NOISE_SCALE) * noise)
    with jax.enable_x64(True):
        doubles = (array.astype(np.float64) for array in inputs)
        truth = jax.tree.map(np.asarray, run(*doubles, form="plain", steps=steps))
    return np.array(
        [relative_errors(run(*inputs, form=f, steps=steps), truth) for f in ("plain", "zoned")]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Accuracy of latents and gradients in float32.")
    parser.add_argument("--n", type=int, default=256, help="number of anchors")
    parser.add_argument("--q", type=int, default=128, help="latent dimension")
    parser.add_argument("--steps", type=int, default=20, help="Euler steps each way")
    parser.add_argument("--seeds", type=int, default=3, help="draws a case; the worst is shown")
    args = parser.parse_args()

    rows = []
    for number, case in enumerate(CASES, 1):
        errors = [measure(case, args.n, args.q, args.steps, seed) for seed in range(args.seeds)]
        (plain, zoned) = np.max(errors, axis=0)
        rows.append((case, plain[0], zoned[0], plain[1], zoned[1], plain[2], zoned[2]))
        print(f"{number}/{len(CASES)} {case}", flush=True)

    print(f"\nn={args.n} q={args.q} steps={args.steps} seeds={args.seeds}, relative errors")
    print(f"{'':32}{'latents':>20}{'grad anchors':>20}{'grad partners':>20}")
    print(f"{'anchors':32}" + 3 * f"{'plain':>10}{'zoned':>10}")
    for case, *values in rows:
        print(f"{case:32}" + "".join(f"{value:10.1e}" for value in values))


if __name__ == "__main__":
    main()
