"""--mode=compile: compiles a training step for other hardware and reports whether it fits."""

import importlib.util
import os
import re
import time
from collections import Counter, defaultdict
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding
from ml_collections import ConfigDict

from lzn_jax import data, models, train
from lzn_jax.errors import UserError
from lzn_jax.latent_space import LatentSpace
from lzn_jax.run import compiled_time, costs, devices

_EXAMPLES = "v5e:4x4, v4:2x2x4, v5p:2x2x2, v6e:4x4, v5e:1 (one chip) or h100:8"
# The smallest slice of each kind is one host of four chips. A target of one chip uses the first.
_ONE_CHIP = {"v4": "2x2x1", "v5e": "2x2", "v5p": "2x2x1", "v6e": "2x2"}
_GPUS_PER_NODE = 8
_H100_MEMORY = 84_942_979_072
# An H100 with NVLink as an xla.GpuTargetConfigProto, from its data sheet.
_H100 = f"""
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
dnn_version_info {{ major: 9 minor: 10 }}
gpu_device_info {{
  cuda_compute_capability {{ major: 9 }}
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  device_memory_size: {_H100_MEMORY}
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  shared_memory_per_core: 233472
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}}
"""


class CompileTarget(NamedTuple):
    """Devices to compile for."""

    name: str  # as given, such as v5e:4x4
    devices: list[jax.Device]  # descriptions of devices, which cannot run programs
    platform: str  # platform that JAX lowers for
    memory: float  # bytes per device available to programs
    options: dict[str, Any]  # options of the compiler
    per_host: int  # largest number of devices of a host


class Verdict(NamedTuple):
    """Result of a compilation."""

    fits: bool  # whether the step fits into the memory of the devices
    images: float | None  # per second that each host must supply, None without an estimate
    bound: str  # "at most " if the images are a bound, else empty


def find(name: str) -> CompileTarget:
    """Compile target of a name such as v5e:4x4 or h100:8. Call it before JAX starts.

    Restricts this process to CPUs. Raises UserError if the name is unknown or its compiler is not
    installed.
    """
    kind, _, shape = name.partition(":")
    if kind == "h100" and shape.isdigit() and int(shape) > 0:
        return _gpus(name, int(shape))
    if kind in _ONE_CHIP and re.fullmatch(r"1|\d+x\d+(x\d+)?", shape):
        return _tpus(name, kind, shape)
    raise UserError(f"--slice must name a slice like {_EXAMPLES}, got {name}")


def _tpus(name: str, kind: str, shape: str) -> CompileTarget:
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("the compiler for TPUs is not installed: pip install -e '.[tpu]'")
    # Otherwise libtpu searches for a TPU and its host.
    os.environ |= {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-8",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
    jax.config.update("jax_platforms", "cpu")
    whole = _ONE_CHIP[kind] if shape == "1" else shape
    try:
        topology = topologies.get_topology_desc(platform="tpu", topology_name=f"{kind}:{whole}")
    except jax.errors.JaxRuntimeError as error:
        raise UserError(f"there is no slice {name}: use {_EXAMPLES} ({error})") from error
    devices: list[Any] = list(topology.devices)[: 1 if shape == "1" else None]
    per_host = sum(each.process_index == devices[0].process_index for each in devices)
    return CompileTarget(name, devices, "tpu", _tpu_memory(devices[0]), {}, per_host)


def _tpu_memory(device: jax.Device) -> float:
    """Bytes available on a chip, parsed from the compiler's out-of-memory error."""
    too_much = jax.ShapeDtypeStruct((2**40,), jnp.int8, sharding=SingleDeviceSharding(device))
    try:
        jax.jit(lambda a: a[::-1]).trace(too_much).lower(lowering_platforms=("tpu",)).compile()
    except jax.errors.JaxRuntimeError as error:
        if match := re.search(r"available HBM \(([\d.]+)G\)", str(error)):
            return float(match[1]) * 2**30
        raise
    raise AssertionError("a terabyte fits")


def _gpus(name: str, count: int) -> CompileTarget:
    plugins = ("jax_cuda12_plugin", "jax_cuda13_plugin")
    if not any(map(importlib.util.find_spec, plugins)):
        raise UserError("the compiler for GPUs is not installed: pip install -e '.[gpu]'")
    nodes, each = max(1, count // _GPUS_PER_NODE), min(count, _GPUS_PER_NODE)
    if nodes * each != count:
        raise UserError(f"more GPUs than {_GPUS_PER_NODE} must be a multiple of it, got {name}")
    jax.config.update("jax_platforms", "cpu")
    topology = topologies.get_topology_desc(
        name, platform="cuda", topology=f"1x{nodes}x{each}", target_config=_H100
    )
    # Autotuning needs a GPU, and chooses the tile sizes of Triton matrix products.
    options = {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}
    machines = list(topology.devices)
    return CompileTarget(name, machines, "cuda", _H100_MEMORY, options, each)


def compile_step(config: ConfigDict, machine: CompileTarget) -> Verdict:
    """Compiles an update and prints a report, one fact per line.

    Raises UserError for batches that leave devices idle.
    """
    images, bound = None, ""
    mesh = models.built(devices.training_mesh, config.training, available=machine.devices)
    lowered, cost = lower_step(LatentSpace(config, mesh), mesh, machine.platform)
    kind, training = machine.devices[0].device_kind, config.training
    share = 100 * cost.inside / cost.total
    each = f"{machine.memory / 1e9:.1f} GB each"
    size, part = training.batch_size, training.microbatch_size
    _report("slice", f"{machine.name}, {mesh.size} of {len(machine.devices)} {kind}, {each}")
    _report("batch", f"{size} images" + (f" in micro-batches of {part}" if part else ""))
    _report("operations", f"{cost.total:.3g} per update, {share:.2g} % in zoning")
    chip, started = costs.chip(kind), time.monotonic()
    if chip is not None:
        _report_cost(cost.total, chip, mesh.size, training.num_steps)
    effort = "on TPUs less with JAX_EXEC_TIME_OPTIMIZATION_EFFORT=-1.0"
    _report("compiling", f"large networks can take an hour, {effort}")
    try:
        compiled = lowered.compile(machine.options)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        _report("memory per chip", " ".join(str(error).split()))
        fits = False
    else:
        fits = _report_memory(compiled, machine.memory)
        program = compiled_time.parse(str(compiled.as_text()))
        for (where, collective), count in sorted(compiled_time.collectives(program).items()):
            _report(f"collectives {where}", f"{count} {collective}")
        if chip is not None:
            estimate = compiled_time.estimate(program, chip)
            seconds = _report_clock(estimate, cost.total / mesh.size / chip.operations)
            if seconds is not None:
                chips, bound = min(machine.per_host, mesh.size), "at most " * (not estimate.cycles)
                images = size / seconds * chips / mesh.size
                rate = f"{bound}{images:,.0f} for {chips} chips"
                _report("images per second that each host must supply", rate)
    _report("compile time", f"{time.monotonic() - started:.0f} s")
    _report("fits", "yes" if fits else "no")
    return Verdict(fits, images, bound)


def _report_cost(operations: float, chip: costs.Chip, chips: int, updates: int) -> None:
    seconds = operations / (chip.operations * chips)
    _report("seconds per update", f"{seconds:.3g} at the bfloat16 peak")
    hours = f"{seconds * chips * updates / 3600:.3g} at the bfloat16 peak"
    _report("chip hours", f"{hours} for {updates:,} updates without evaluation")


def _report_clock(estimate: compiled_time.Estimate, at_peak: float) -> float | None:
    """Prints the estimated seconds of an update by part of the model and kind of operation.

    `at_peak` is the time in seconds that the update would take at the chip's bfloat16 peak. Returns
    the seconds of an update, or None without an estimate.
    """
    total = sum(estimate.seconds.values())
    if estimate.cycles is None:
        name = "seconds per update, lower bound"
        value = f"{total:.3g}, each fusion at the chip's peak or at its bandwidth"
    else:
        name = "seconds per update, compiler's estimate"
        if jax.config.values.get("jax_exec_time_optimization_effort", 0) < 0:  # none in JAX 0.12
            _report(name, "none at low effort, where products take up to ten times as long")
            return None
        value = f"{total:.3g}, {estimate.cycles / 1e6:.4g} million cycles"
    _report(name, f"{value}, {at_peak / total:.1%} of the bfloat16 peak")
    by_part: dict[str, Any] = defaultdict(Counter)
    for (part, kind), seconds in estimate.seconds.items():
        for key in (part, "all"):
            by_part[key][kind] += seconds
    for part, kinds in sorted(by_part.items(), key=lambda item: -item[1].total()):
        shares = ", ".join(f"{kind} {n / kinds.total():.0%}" for kind, n in kinds.most_common())
        whole = f"{kinds.total():.3g} s, {kinds.total() / total:.1%}"
        _report(f"estimate, {part}", f"{whole}: {shares}")
    named = ", ".join(f"{count} {kind}" for kind, count in estimate.unknown.most_common())
    unknown = f"{named}, {estimate.bound:.2g} s by their bytes" if named else "nothing"
    _report("without an estimate", f"{unknown}; {estimate.loops} loops counted once")
    return total


def _report_memory(compiled: jax.stages.Compiled, available: float) -> bool:
    """Prints the memory that a program needs per chip. Returns whether it is available."""
    analysis: Any = compiled.memory_analysis()
    # The state is donated, so its new values reuse the memory of the old values.
    sizes = {
        "state and batch": analysis.argument_size_in_bytes,
        "temporaries": analysis.temp_size_in_bytes,
        "results not aliased": analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
    }
    for part, size in sizes.items():
        _report(f"memory per chip, {part}", f"{size / 1e9:.3g} GB")
    needed: int = sum(sizes.values())
    _report("memory per chip", f"{needed / 1e9:.3g} of {available / 1e9:.1f} GB")
    return needed <= available


def lower_step(
    space: LatentSpace, mesh: jax.sharding.Mesh, platform: str
) -> tuple[jax.stages.Lowered, costs.Cost]:
    """Lowered update of a space, and its operations; the devices of the mesh need not exist."""
    config = space.config
    optimizer = train.make_optimizer(config.training, list(space.modules))
    shapes = jax.eval_shape(lambda: train.init_state(space, optimizer, config.seed))
    state = devices.placed(shapes, mesh, shard=config.training.shard_parameters)
    with jax.set_mesh(mesh):
        update = train.jit_update(space, optimizer, config, mesh, state)
        traced = update.trace(state, batch_shapes(space))
        return traced.lower(lowering_platforms=(platform,)), costs.count_operations(traced.jaxpr)


def batch_shapes(space: LatentSpace) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a training batch by column. Reads an example for types without known shapes."""
    shapes = {"labels": jax.ShapeDtypeStruct((), np.int32)}
    for data_type in space.types.values():
        own = data_type.column_shapes()
        if own is None:
            row = data_type.columns(data.load(space.config.data, "train").at(np.arange(1)))
            own = {n: jax.ShapeDtypeStruct(a.shape[1:], a.dtype) for n, a in row.items()}
        shapes |= own
    rows: dict[str, Any] = {n: np.zeros(each.shape, each.dtype) for n, each in shapes.items()}
    for transform in space.row_transforms:
        rows |= transform(rows, np.random.default_rng(0))
    size = space.config.training.batch_size
    return {n: jax.ShapeDtypeStruct((size, *row.shape), row.dtype) for n, row in rows.items()}


def _report(name: str, value: str) -> None:
    print(f"{name}: {value}", flush=True)
