"""What the devices at hand do: speed of zoning, training and sampling, errors, compile times.

    python benchmarks/on_device.py [--n 1024 8192 32768] [--configs FILE ...]
        [--dtypes bfloat16 float32] [--batch-size 1024] [--steps 10] [--config.FIELD=VALUE ...]

A line a measurement, in this order; what does not fit in memory is a line that says so:

* matmul: large square products in bfloat16, and in float32 as XLA does it by default;
* zoning: value and gradient of latents and alignment loss (q = 256, 20 + 20 Euler steps, soft
  anchors as in zoning_speed.py), beside the seven products of a step, timed in turns. Up to
  n = 1024 also relative errors (Frobenius norm) of latents and gradient, with soft and with
  Gaussian anchors, against the same in float64 on the CPU;
* training and sampling (studies of generation, by Euler) of each config in both dtypes, with random
  weights and images, beside large products in that dtype. lzn_jax.run.costs counts operations,
  evaluations are of the velocity, of one image each.

"share" is relative to the speed of the products; "compile s" is for tracing and compiling.
Overrides go to the configs that hold the field; --n or --configs with nothing after it leaves that
part out. on_device.json is written anew after each line: the command may be stopped at any time
(`timeout 8m python benchmarks/on_device.py`). Works on all devices that divide n and batches, in
one process.
"""

import argparse
import functools
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import shared
from jax.sharding import Mesh
from ml_collections import ConfigDict
from shared import STDS, STEPS, Q, make_problem
from zoning_speed import times_and_roofline

from lzn_jax import configuration, inference, models, train
from lzn_jax.data_types import Model
from lzn_jax.errors import UserError
from lzn_jax.files import write_json
from lzn_jax.latent_space import LatentSpace
from lzn_jax.modes.compile import batch_shapes
from lzn_jax.run import devices
from lzn_jax.run.costs import count_operations
from lzn_jax.zoning import Euler

FAILED = "failed: "
DTYPES = ("bfloat16", "float32")
ERRORS_UP_TO, MOST_ROWS, MICRO_BATCH = 1024, 8192, 128
Row = dict[str, Any]
Measurement = tuple[str, str, Callable[[], Row]]  # section, name, and what measures


class Program(NamedTuple):
    """A compiled function, the seconds until it was, and the operations of a call."""

    call: Callable[..., Any]
    seconds: float
    operations: float


def compile_program(function: Any, *arguments: Any) -> Program:
    started = time.perf_counter()
    traced = function.trace(*arguments)
    compiled = traced.lower().compile()
    taken = time.perf_counter() - started
    return Program(compiled, taken, count_operations(traced.jaxpr).total)


def seconds_in_a_row(call: Callable[[], Any], count: int) -> float:
    """Seconds of one of several calls that the device need not wait for."""
    jax.block_until_ready(call())  # the first one is slower
    return shared.seconds(lambda: [call() for _ in range(count)][-1]) / count


def speed(program: Program, operations: float, taken: float, best: float, mesh: Mesh) -> Row:
    """Columns that sections share; `best` is the TFLOP/s of a device's products."""
    rate, best = operations / taken / 1e12, mesh.size * best
    row = {"devices": mesh.size, "compile s": program.seconds, "seconds": taken}
    return row | {"TFLOP/s": rate, "products": best, "share": rate / best}


@functools.cache
def measure_matmul(dtype: str, size: int) -> Row:
    matrix = jax.random.normal(jax.random.key(0), (size, size), dtype)
    program = compile_program(jax.jit(jnp.matmul), matrix, matrix)
    taken = seconds_in_a_row(lambda: program.call(matrix, matrix), 10)
    row = {"dtype": dtype, "size": size, "compile s": program.seconds, "seconds": taken}
    return row | {"TFLOP/s": program.operations / taken / 1e12}


zoned = shared.gradient(solver=Euler(STEPS))


def latents_and_gradient(outputs: Any) -> dict[str, np.ndarray]:
    (_, latents), gradient = outputs
    return {"latents": np.asarray(latents), "gradient": np.stack(gradient)}


def zoning_errors(zone: Callable[..., Any], n: int, mesh: Mesh) -> Row:
    errors = {}
    for kind, std in STDS.items():
        problem = make_problem(n, std)
        found = latents_and_gradient(zone(*devices.put_rows(problem, mesh)))
        # Many accelerators have no float64.
        with jax.default_device(jax.devices("cpu")[0]), jax.enable_x64(True):
            exact = latents_and_gradient(zoned(*map(np.float64, problem)))
        for name, value in found.items():
            errors[f"{kind} {name}"] = shared.relative_error(value, exact[name])
    return errors


def measure_zoning(n: int, repeats: int) -> Row:
    """Zoning beside the products of as many rows as a device has, which reach full speed."""
    mesh = devices.make_mesh(n)
    problem = devices.put_rows(make_problem(n, STDS["soft"]), mesh)
    with jax.set_mesh(mesh):
        program = compile_program(zoned, *problem)
    rows = min(n // mesh.size, MOST_ROWS)
    zone = functools.partial(program.call, *problem)
    taken, roofline = np.median(times_and_roofline(zone, rows, n, repeats), axis=1).tolist()
    operations = 2 * STEPS * 14 * n * n * Q
    best = 2 * STEPS * 14 * rows * n * Q / roofline / 1e12
    row = {"n": n} | speed(program, operations, taken, best, mesh)
    return row | (zoning_errors(program.call, n, mesh) if n <= ERRORS_UP_TO else {})


def holds(config: ConfigDict, field: str) -> bool:
    group, _, rest = field.partition(".")
    return group in config and (not rest or holds(config[group], rest))


def load(path: str, overrides: tuple[str, ...]) -> ConfigDict:
    plain = configuration.load(path)
    return configuration.load(path, [o for o in overrides if holds(plain, o.partition("=")[0])])


def random_weights(shapes: Any) -> Any:
    """Small random numbers of these shapes: real ones take the compiler a minute."""
    draw = functools.partial(np.random.default_rng(0).standard_normal, dtype=np.float32)
    return jax.tree.map(lambda a: np.float32(0.02) * draw(a.shape), shapes)


def random_batch(space: LatentSpace, config: ConfigDict) -> dict[str, np.ndarray]:
    rng, shapes = np.random.default_rng(0), batch_shapes(space)
    ends = {name: 1 if name == "labels" else 256 for name in shapes}
    return {
        name: rng.integers(ends[name], size=a.shape, dtype=a.dtype) for name, a in shapes.items()
    }


def network_row(
    path: str, config: ConfigDict, mesh: Mesh, program: Program, taken: float, count: int, size: int
) -> Row:
    dtype = config.training.compute_dtype
    row = {"config": Path(path).stem, "dtype": dtype, "images": count, "images/s": count / taken}
    best = measure_matmul(dtype, size)["TFLOP/s"]
    return row | speed(program, program.operations, taken, best, mesh)


def measure_training(path: str, dtype: str, arguments: argparse.Namespace) -> Row:
    config = load(path, (f"training.compute_dtype={dtype}", *arguments.overrides))
    mesh = models.built(devices.training_mesh, config.training)
    space = LatentSpace(config, mesh)
    optimizer = train.make_optimizer(config.training, list(space.modules))
    shapes = jax.eval_shape(lambda: train.init_state(space, optimizer, config.seed))
    placed = devices.placed(shapes, mesh, shard=config.training.shard_parameters)
    zeros = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), shapes)
    state = zeros.replace(params=random_weights(shapes.params))
    state = jax.device_put(state, jax.tree.map(lambda a: a.sharding, placed))
    batch = devices.put_rows(random_batch(space, config), mesh)
    with jax.set_mesh(mesh):
        update = train.jit_update(space, optimizer, config, mesh, state)
        program = compile_program(update, state, batch)

    def step() -> dict[str, jax.Array]:
        nonlocal state
        state, metrics = program.call(state, batch)
        return metrics

    taken, count = seconds_in_a_row(step, arguments.repeats), config.training.batch_size
    row = network_row(path, config, mesh, program, taken, count, arguments.matmul_size)
    return row | {"loss": float(step()["loss"])}


def measure_sampling(path: str, dtype: str, arguments: argparse.Namespace) -> Row:
    """Images from random networks, as many at a time as these see in training."""
    config = load(path, (f"training.compute_dtype={dtype}", *arguments.overrides))
    mesh = models.built(devices.training_mesh, config.training)
    space = LatentSpace(config, mesh)
    variables = random_weights(jax.eval_shape(lambda: space.init(jax.random.key(0))))
    count = config.training.microbatch_size or config.training.batch_size
    latents = np.zeros((count, config.latent.dim), np.float32) if space.encoders else None
    request = devices.put_rows({"index": np.arange(count), "latents": latents}, mesh)
    model = Model(jax.device_put(variables, devices.replicated(mesh)), {})
    inputs = (model, jax.random.key(0), request)
    decode = functools.partial(inference.decode, space, source=None, target="image")
    with jax.set_mesh(mesh):
        program = compile_program(jax.jit(decode), *inputs)
    taken = seconds_in_a_row(lambda: program.call(*inputs), arguments.repeats)
    row = network_row(path, config, mesh, program, taken, count, arguments.matmul_size)
    evaluations = int(np.sum(program.call(*inputs)["num_evaluations"]))
    return row | {"evaluations/s": evaluations / taken}


def plan(arguments: argparse.Namespace) -> Iterator[Measurement]:
    """All there is to measure, the most important first."""
    for dtype in arguments.dtypes:
        yield "matmul", dtype, functools.partial(measure_matmul, dtype, arguments.matmul_size)
    for n in sorted(arguments.n):
        yield "zoning", f"n = {n}", functools.partial(measure_zoning, n, arguments.repeats)
    for dtype in arguments.dtypes:
        for path in arguments.configs:
            name, inputs = f"{Path(path).stem}, {dtype}", (path, dtype, arguments)
            yield "training", name, functools.partial(measure_training, *inputs)
            if load(path, arguments.overrides).study == "generation":
                yield "sampling", name, functools.partial(measure_sampling, *inputs)


def attempt(run: Callable[[], Row]) -> Row | str:
    """The row, or why there is none."""
    try:
        return run()
    except RuntimeError as error:  # also JAX's own
        is_memory = "RESOURCE_EXHAUSTED" in str(error) or "Out of memory" in str(error)
        return "does not fit in memory" if is_memory else FAILED + str(error).splitlines()[0]


def measure_all(measurements: list[Measurement], path: Path, results: dict[str, Any]) -> None:
    """Fills the results, prints them and keeps the file up to date."""
    missing = {f"{section}, {name}": "the time was up" for section, name, _ in measurements}
    results |= {section: [] for section, _, _ in measurements} | {"not measured": missing}
    for section, name, run in measurements:
        write_json(path, results)
        found, title = attempt(run), f"{section}, {name}"
        print(f"{title}: {found if isinstance(found, str) else shared.line(found)}", flush=True)
        if isinstance(found, str):
            missing[title] = found
        else:
            results[section].append(found)
            del missing[title]
    write_json(path, results)


def parse() -> argparse.Namespace:
    parser = shared.parser(__doc__)
    configs = ["configs/imagenet_repr.py", "configs/cifar10_gen.py"]
    parser.add_argument("--n", type=int, nargs="*", default=[1024, 8192, 32768], help="anchors")
    parser.add_argument("--configs", nargs="*", default=configs, help="networks to train")
    parser.add_argument("--dtypes", nargs="*", choices=DTYPES, default=DTYPES, help="of networks")
    parser.add_argument("--batch-size", type=int, default=1024, help="images an update")
    parser.add_argument("--steps", type=int, default=10, help="Euler steps of sampling")
    parser.add_argument("--repeats", type=int, default=3, help="timed calls of each program")
    parser.add_argument("--matmul-size", type=int, default=8192, help="side of large products")
    parser.add_argument("--folder", type=Path, default=Path("results/on_device"))
    arguments, given = shared.parse(parser)
    arguments.overrides = (
        f"training.batch_size={arguments.batch_size}",
        f"training.microbatch_size={min(arguments.batch_size, MICRO_BATCH)}",
        "training.devices=dividing",
        "sampling.sampler=euler",
        f"sampling.num_steps={arguments.steps}",
        *given,
    )
    try:
        loaded = [load(path, arguments.overrides) for path in arguments.configs]
    except UserError as error:
        parser.error(str(error))
    for field in (text.partition("=")[0] for text in given):
        if not any(holds(config, field) for config in loaded):
            parser.error(f"none of the configs holds the field {field}")
    return arguments


def main() -> int:
    """Measures; the exit code is 1 if something failed for another reason than memory."""
    arguments = parse()
    device, count = jax.devices()[0].device_kind, jax.device_count()
    print(f"{count} x {device}, JAX {jax.__version__}", flush=True)
    results = {"device": device, "devices": count, "jax": jax.__version__}
    measure_all(list(plan(arguments)), arguments.folder / "on_device.json", results)
    print(f"\nwritten to {arguments.folder}")
    return int(any(reason.startswith(FAILED) for reason in results["not measured"].values()))


if __name__ == "__main__":
    sys.exit(main())
