"""Machines that are not there: devices of TPU slices and GPU nodes that programs are compiled for.

Their compilers say whether a program exists for a machine, its memory, and what its devices
exchange. They say nothing of time, numbers on the chip, or how many hosts start.
"""

import importlib.util
import os
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from lzn_jax.configuration import UserError

_EXAMPLES = "v5e:4x4, v4:2x2x4, v5p:2x2x2, v6e:4x4, v5e:1 (one chip) or h100:8"
# The smallest slices, of which one chip is taken. A host of a TPU has four chips.
_ONE_CHIP = {"v4": "2x2x1", "v5e": "2x2", "v5p": "2x2x1", "v6e": "2x2"}
_GPUS_A_NODE = 8
_H100_MEMORY = 84_942_979_072
# An H100 with NVLink, as XLA describes cards (xla.GpuTargetConfigProto): what its sheet says.
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
    """Devices to compile for, what each of them has, and how.

    Attributes:
      devices: their descriptions, which cannot run anything.
      platform: what JAX lowers to.
      memory: bytes that programs have on each.
      options: of the compiler.
    """

    devices: list[jax.Device]
    platform: str
    memory: float
    options: dict[str, Any]


def find(name: str) -> CompileTarget:
    """The slice of a name, before JAX has started; other devices of this process are CPUs.

    Raises UserError for an unknown name and where the compiler for it is not installed.
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
    # Or libtpu looks for a TPU, and for its host.
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
        raise UserError(f"there is no slice {name}, but {_EXAMPLES} ({error})") from error
    devices = list(topology.devices)[: 1 if shape == "1" else None]
    return CompileTarget(devices, "tpu", _tpu_memory(devices[0]), {})


def _tpu_memory(device: jax.Device) -> float:
    """What the compiler says when it is asked for more."""
    too_much = jax.ShapeDtypeStruct((2**40,), jnp.int8, sharding=SingleDeviceSharding(device))
    try:
        jax.jit(lambda a: a[::-1]).trace(too_much).lower(lowering_platforms=("tpu",)).compile()
    except jax.errors.JaxRuntimeError as error:
        if found := re.search(r"available HBM \(([\d.]+)G\)", str(error)):
            return float(found[1]) * 2**30
        raise
    raise AssertionError("a terabyte fits")


def _gpus(name: str, count: int) -> CompileTarget:
    if importlib.util.find_spec("jax_cuda12_plugin") is None:
        raise UserError("the compiler for GPUs is not installed: pip install -e '.[gpu]'")
    nodes, each = max(1, count // _GPUS_A_NODE), min(count, _GPUS_A_NODE)
    if nodes * each != count:
        raise UserError(f"nodes have {_GPUS_A_NODE} GPUs: more must be a multiple, got {name}")
    jax.config.update("jax_platforms", "cpu")
    topology = topologies.get_topology_desc(
        name, platform="cuda", topology=f"1x{nodes}x{each}", target_config=_H100
    )
    # Without a card nothing can be timed, and XLA's Triton products find no tile sizes.
    options = {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}
    return CompileTarget(list(topology.devices), "cuda", _H100_MEMORY, options)
