"""Compiles programs for TPU slices that are not there; prints what tests want to know of each.

A process of its own: the compiler for TPUs takes a lock, and other tests turn optimisations off.
"""

import functools
import json

import jax
import jax.numpy as jnp
import small
from jax.sharding import NamedSharding, PartitionSpec

from lzn_jax import zoning
from lzn_jax.latent_space import LatentSpace
from lzn_jax.modes import compile
from lzn_jax.run import compiled_time, costs
from lzn_jax.run import devices as devices_module

N, Q, STEPS = 8192, 256, 20
V5E = costs.chip("TPU v5 lite")
STUDIES = {
    "generation": ("configs/digits_gen.py", {"latent__solver": "dpm"}),
    "representation": ("configs/digits_repr.py", {}),
    "joint": ("configs/digits_joint.py", {"training__microbatch_size": 8}),
    "text": ("configs/digits_text.py", {}),
    "alone": ("configs/digits_alone.py", {"training__queries": 8}),
}


def zoned_loss(solver):
    """Value and gradient of latents plus alignment."""

    @functools.partial(jax.value_and_grad, argnums=(0, 1))
    def loss(anchors, partners, noise):
        latents = zoning.compute_latents(anchors, noise, solver=solver)
        return zoning.alignment_loss(latents, partners, jnp.arange(N), solver=solver)[0]

    return loss


def products(count):
    """A loop of products of 8192 x 256 and 256 x 256."""

    def run(x, y, z):
        step = lambda x, _: (jnp.tanh(x @ y[:Q]), None)  # noqa: E731
        return jax.lax.scan(step, x, None, length=count)[0]

    return run


def of_rows(function, mesh, count=3):
    """A function of arrays of rows, lowered for TPUs."""
    rows = jax.ShapeDtypeStruct((N, Q), jnp.float32, sharding=NamedSharding(mesh, ROWS))
    with jax.set_mesh(mesh):
        return jax.jit(function).trace(*[rows] * count).lower(lowering_platforms=("tpu",))


def step_of(study, mesh):
    """The update of a shrunken config, lowered for TPUs."""
    path, changes = STUDIES[study]
    config = small.config(path, training__batch_size=16, **changes)
    return compile.lower_step(LatentSpace(config, mesh), mesh, "tpu")[0]


ROWS = PartitionSpec("data")
PROGRAMS = {
    "zoning euler": functools.partial(of_rows, zoned_loss(zoning.Euler(STEPS))),
    "zoning adams": functools.partial(of_rows, zoned_loss(zoning.AdamsBashforth(STEPS))),
    **{
        function.__name__: functools.partial(
            of_rows, functools.partial(function, solver=zoning.Euler(STEPS)), count=count
        )
        for function, count in (
            (zoning.latents_in_context, 3),
            (zoning.decode, 2),
            (zoning.classify, 2),
        )
    },
    **{study: functools.partial(step_of, study) for study in STUDIES},
    **{f"{n} products": functools.partial(of_rows, products(n)) for n in (7, 21)},
}
ON_ONE_CHIP = ("zoning euler", "7 products", "21 products")


def main() -> None:
    """Prints a line of JSON a program."""
    devices = compile.find("v5e:2x4").devices
    for name, lower in PROGRAMS.items():
        for chips in (8, 1) if name in ON_ONE_CHIP else (8,):
            compiled = lower(devices_module.make_mesh(chips, devices[:chips])).compile()
            text = compiled.as_text()
            program = compiled_time.parse(text)
            estimate = compiled_time.estimate(program, V5E)
            products = (s for (_, kind), s in estimate.seconds.items() if kind == "products")
            hosts = ("callback", "infeed", "outfeed", "host_transfer")
            facts = {
                "program": name,
                "chips": chips,
                "collectives": [
                    [*key, count] for key, count in compiled_time.collectives(program).items()
                ],
                "cycles": estimate.cycles,
                "products": sum(products) * V5E.cycles,
                "temporaries": compiled.memory_analysis().temp_size_in_bytes,
                "calls the host": [word for word in hosts if word in text],
            }
            print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
