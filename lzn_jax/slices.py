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


class Slice(NamedTuple):
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


def find(name: str) -> Slice:
    """The slice of a name, before JAX has started; other devices of this process are CPUs.

    Raises UserError for an unknown name and where the compiler for it is not installed.
    """
    kind, _, shape = name.partition(":")
    if kind == "h100" and shape.isdigit() and int(shape) > 0:
        return _gpus(int(shape))
    if kind in _ONE_CHIP and re.fullmatch(r"1|\d+x\d+(x\d+)?", shape):
        return _tpus(name, kind, shape)
    raise UserError(f"--slice must name a slice like {_EXAMPLES}, got {name}")


def _tpus(name: str, kind: str, shape: str) -> Slice:
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
    return Slice(devices, "tpu", _tpu_memory(devices[0]), {})


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


def _gpus(count: int) -> Slice:
    raise NotImplementedError
