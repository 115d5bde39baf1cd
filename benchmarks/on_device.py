"""What the devices at hand do: speed of zoning, training and sampling, errors, compile times.

    python benchmarks/on_device.py [--minutes 8] [--n 1024 8192 32768] [--configs FILE ...]
        [--dtypes bfloat16 float32] [--batch-size 1024] [--steps 10] [--config.FIELD=VALUE ...]

A line a measurement, in this order; what does not fit, in time or memory, is a line that says so:

* matmul: large square products in bfloat16, and in float32 as XLA does it by default;
* zoning: value and gradient of latents and alignment loss (q = 256, 20 + 20 Euler steps, soft
  anchors as in zoning_speed.py), beside the seven products of a step, timed in turns. Up to
  n = 1024 also relative errors (Frobenius norm) of latents and gradient, with soft and with
  Gaussian anchors, against the same in float64 on the CPU;
* training and sampling (studies of generation, by Euler) of each config in both dtypes, with random
  weights and images, beside large products in that dtype. lzn_jax.run.costs counts operations,
  evaluations are of the velocity, of one image each.

"share" is that of the speed of the products; "compile s" is for tracing and compiling. Overrides go
to the configs that hold the field; --n or --configs with nothing after it leaves that part out.
on_device.json is written anew after each line. Works on all devices that divide n and batches, in
one process.
"""

import argparse
import contextlib
import functools
import os
import statistics
import sys
import threading
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
from shared import STDS, STEPS, Q, make_problem, median_seconds, seconds
from zoning_speed import products_of_a_step

from lzn_jax import configuration, inference, train
from lzn_jax import errors as errors_module
from lzn_jax.latent_space import LatentSpace, Model
from lzn_jax.modes.compile import batch_shapes
from lzn_jax.run import devices
from lzn_jax.run.costs import count_operations
from lzn_jax.run.files import write_json
from lzn_jax.zoning import Euler

PREFIX, FAILED = "--config.", "failed: "
DTYPES = ("bfloat16", "float32")
ERRORS_UP_TO, MOST_ROWS, MICRO_BATCH = 1024, 8192, 128
Row = dict[str, Any]


class Measurement(NamedTuple):
    """Something to measure; those of a series compile alike and run in proportion to their work."""

    section: str
    name: str
    series: str
    work: float
    run: Callable[[], Row]


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
    return seconds(lambda: [call() for _ in range(count)][-1]) / count


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


zoned = shared.gradient(Euler(STEPS))


def latents_and_gradient(outputs: Any) -> dict[str, np.ndarray]:
    (_, latents), gradient = outputs
    return {
        "latents": np.asarray(latents, np.float64),
        "gradient": np.stack(gradient).astype(np.float64),
    }


@functools.cache
def truth(n: int, std: float) -> dict[str, np.ndarray]:
    """Latents and gradient in float64, which many accelerators lack."""
    with jax.default_device(jax.devices("cpu")[0]), jax.enable_x64(True):
        doubles = [array.astype(np.float64) for array in make_problem(n, std)]
        return latents_and_gradient(zoned(*doubles))


def zoning_errors(zone: Callable[..., Any], n: int, mesh: Mesh) -> Row:
    errors = {}
    for kind, std in STDS.items():
        found = latents_and_gradient(zone(*devices.put_rows(make_problem(n, std), mesh)))
        for name, value in found.items():
            reference = truth(n, std)[name]
            error = np.linalg.norm(value - reference) / np.linalg.norm(reference)
            errors[f"{kind} {name}"] = float(error)
    return errors


def measure_zoning(n: int, repeats: int) -> Row:
    """Zoning beside the products of as many rows as a device has, which reach full speed."""
    mesh = devices.make_mesh(n)
    problem = devices.put_rows(make_problem(n, STDS["soft"]), mesh)
    with jax.set_mesh(mesh):
        program = compile_program(zoned, *problem)
    rows = min(n // mesh.size, MOST_ROWS)
    shapes = ((rows, Q), (n, Q), (rows, n), (rows, Q))
    arrays = [jax.random.normal(jax.random.key(1), shape) for shape in shapes]
    products = functools.partial(products_of_a_step, *arrays)
    jax.block_until_ready((products(), program.call(*problem)))  # the first ones are slower
    pairs = []
    for _ in range(repeats):
        pairs.append((seconds(program.call, *problem), median_seconds(products)))
    taken, step = (statistics.median(values) for values in zip(*pairs, strict=True))
    operations, best = 2 * STEPS * 14 * n * n * Q, 14 * rows * n * Q / step / 1e12
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


def random_state(shapes: train.TrainState) -> train.TrainState:
    zeros = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), shapes)
    return zeros.replace(params=random_weights(shapes.params))


def random_batch(space: LatentSpace, config: ConfigDict) -> dict[str, np.ndarray]:
    rng, shapes = np.random.default_rng(0), batch_shapes(space, config)
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
    mesh = devices.training_mesh(config.training)
    space = LatentSpace(config, mesh)
    optimizer = train.make_optimizer(config.training, list(space.modules))
    shapes = jax.eval_shape(lambda: train.init_state(space, optimizer, config.seed))
    placed = devices.placed(shapes, mesh, shard=config.training.shard_parameters)
    state = jax.device_put(random_state(shapes), jax.tree.map(lambda a: a.sharding, placed))
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
    mesh = devices.training_mesh(config.training)
    space = LatentSpace(config, mesh)
    variables = random_weights(jax.eval_shape(lambda: space.init(jax.random.key(0))))
    count = devices.examples_at_a_time(config.training)
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
    """All there is to measure, the most important first: each program before its variants."""
    for dtype in arguments.dtypes:
        run = functools.partial(measure_matmul, dtype, arguments.matmul_size)
        yield Measurement("matmul", dtype, "", 1, run)
    for n in sorted(arguments.n):
        run = functools.partial(measure_zoning, n, arguments.repeats)
        yield Measurement("zoning", f"n = {n}", "", n * n, run)
    for dtype in arguments.dtypes:
        for path in arguments.configs:
            name = f"{Path(path).stem}, {dtype}"
            run = functools.partial(measure_training, path, dtype, arguments)
            yield Measurement("training", name, path, 1, run)
            if load(path, arguments.overrides).study == "generation":
                run = functools.partial(measure_sampling, path, dtype, arguments)
                yield Measurement("sampling", name, path, 1, run)


@contextlib.contextmanager
def ended_after(limit: float, name: str) -> Iterator[None]:
    """Ends the process if the block takes longer: nothing else interrupts a compiler."""

    def end() -> None:
        print(f"{name}: not finished, the time is up", flush=True)
        os._exit(0)

    timer = threading.Timer(limit, end)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def attempt(measurement: Measurement, left: float, expected: float) -> Row | str:
    if left <= expected:
        needs = f" and it takes about {expected:.0f} s" if expected else ""
        return f"skipped: {max(left, 0):.0f} s are left{needs}"
    try:
        with ended_after(left, f"{measurement.section}, {measurement.name}"):
            return measurement.run()
    except RuntimeError as error:  # also JAX's own
        is_memory = "RESOURCE_EXHAUSTED" in str(error) or "Out of memory" in str(error)
        return "does not fit in memory" if is_memory else FAILED + str(error).splitlines()[0]


def print_row(row: Row, title: str | None) -> None:
    widths = {name: max(len(name), 13 if isinstance(row[name], str) else 8) for name in row}
    if title:
        print(f"\n{title}\n" + "  ".join(f"{name:>{widths[name]}}" for name in row))
    cells = {name: f"{v:.4g}" if isinstance(v, float) else v for name, v in row.items()}
    print("  ".join(f"{cell:>{widths[name]}}" for name, cell in cells.items()), flush=True)


def measure_all(arguments: argparse.Namespace, deadline: float, results: dict[str, Any]) -> None:
    """Fills the results, prints them and keeps the file up to date."""
    measurements = list(plan(arguments))
    missing = {f"{m.section}, {m.name}": "the time was up" for m in measurements}
    results |= {m.section: [] for m in measurements} | {"not measured": missing}
    before: dict[tuple[str, str], tuple[float, Row]] = {}
    title = None
    for m in measurements:
        write_json(arguments.folder / "on_device.json", results)
        name, expected = f"{m.section}, {m.name}", 0.0
        if (m.section, m.series) in before:
            work, row = before[m.section, m.series]
            calls = (arguments.repeats + 2) * m.work / work
            expected = row["compile s"] + calls * row["seconds"]
        found = attempt(m, deadline - time.monotonic(), expected)
        if isinstance(found, str):
            missing[name] = found
            print(f"{name}: {found}", flush=True)
            continue
        print_row(found, None if m.section == title else m.section)
        title, before[m.section, m.series] = m.section, (m.work, found)
        results[m.section].append(found)
        del missing[name]
    write_json(arguments.folder / "on_device.json", results)


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    configs = ["configs/imagenet_repr.py", "configs/cifar10_gen.py"]
    parser.add_argument("--minutes", type=float, default=8, help="time budget")
    parser.add_argument("--n", type=int, nargs="*", default=[1024, 8192, 32768], help="anchors")
    parser.add_argument("--configs", nargs="*", default=configs, help="networks to train")
    parser.add_argument("--dtypes", nargs="*", choices=DTYPES, default=DTYPES, help="of networks")
    parser.add_argument("--batch-size", type=int, default=1024, help="images an update")
    parser.add_argument("--steps", type=int, default=10, help="Euler steps of sampling")
    parser.add_argument("--repeats", type=int, default=3, help="timed calls of each program")
    parser.add_argument("--matmul-size", type=int, default=8192, help="side of large products")
    parser.add_argument("--folder", type=Path, default=Path("results/on_device"))
    arguments = parser.parse_args([word for word in words if not word.startswith(PREFIX)])
    given = [word.removeprefix(PREFIX) for word in words if word.startswith(PREFIX)]
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
    except errors_module.UserError as error:
        parser.error(str(error))
    for field in (text.partition("=")[0] for text in given):
        if not any(holds(config, field) for config in loaded):
            parser.error(f"none of the configs holds the field {field}")
    return arguments


def main() -> int:
    """Measures; the exit code is 1 if something failed for another reason than time or memory."""
    started = time.monotonic()
    arguments = parse(sys.argv[1:])
    device, count = jax.devices()[0].device_kind, jax.device_count()
    print(f"{count} x {device}, JAX {jax.__version__}", flush=True)
    results = {"device": device, "devices": count, "jax": jax.__version__}
    measure_all(arguments, started + 60 * arguments.minutes, results)
    print(f"\nwritten to {arguments.folder}")
    return int(any(reason.startswith(FAILED) for reason in results["not measured"].values()))


if __name__ == "__main__":
    sys.exit(main())
