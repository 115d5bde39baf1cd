"""The one place that decides which device holds what: data parallel over one mesh axis."""

import math
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def make_mesh(batch_size: int, devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh with axis `data` over as many devices as divide the global batch evenly."""
    devices = jax.devices() if devices is None else devices
    count = math.gcd(batch_size, len(devices))
    return Mesh(np.array(devices[:count]), ("data",), axis_types=(AxisType.Auto,))


def split(mesh: Mesh) -> NamedSharding:
    """Leading axis divided among the devices: batches."""
    return NamedSharding(mesh, PartitionSpec("data"))


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on each device: parameters, optimiser state, metrics."""
    return NamedSharding(mesh, PartitionSpec())


def to_host(array: Any) -> np.ndarray:
    """The whole array on the host, wherever its parts are; all processes must call."""
    if isinstance(array, jax.Array) and not (
        array.is_fully_addressable or array.is_fully_replicated
    ):
        array = multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(array)


def placed(shapes: Any, mesh: Mesh) -> Any:
    """A tree of shapes with the placement that a restored copy shall have: replicated."""
    return jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=replicated(mesh)), shapes
    )
