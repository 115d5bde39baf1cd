"""Devices of TPU slices and GPU nodes to compile for without access to them.

Compilation shows whether a program is valid for a machine, its memory and its collectives. It does
not show run time, numerical results on the chip or the start of several hosts.
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
# The smallest slice of each kind: one host of four chips. A target of one chip uses its first.
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
    """Devices to compile for.

    Attributes:
      devices: descriptions of devices, which cannot run programs.
      platform: the platform that JAX lowers for.
      memory: bytes per device available to programs.
      options: compiler options.
    """

    devices: list[jax.Device]
    platform: str
    memory: float
    options: dict[str, Any]


def find(name: str) -> CompileTarget:
    """Compile target of a name such as v5e:4x4 or h100:8. Restricts this process to CPUs.

    Call it before JAX starts. Raises UserError if the name is unknown or its compiler is not
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
    devices = list(topology.devices)[: 1 if shape == "1" else None]
    return CompileTarget(devices, "tpu", _tpu_memory(devices[0]), {})


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
        raise UserError(
            f"a node has {_GPUS_PER_NODE} GPUs: larger counts must be multiples, got {name}"
        )
    jax.config.update("jax_platforms", "cpu")
    topology = topologies.get_topology_desc(
        name, platform="cuda", topology=f"1x{nodes}x{each}", target_config=_H100
    )
    # Autotuning needs a GPU, and without it Triton matrix products have no tile sizes.
    options = {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}
    return CompileTarget(list(topology.devices), "cuda", _H100_MEMORY, options)
