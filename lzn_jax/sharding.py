"""The one place that decides which device holds what: data parallel over one mesh axis."""

import math
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lzn_jax.configuration import UserError


def make_mesh(batch_size: int, devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh with axis `data` over as many devices as divide the global batch evenly.

    Each process has equally many, one after the other. Raises UserError for a batch that the
    processes cannot share.
    """
    devices = jax.devices() if devices is None else devices
    numbers = sorted({device.process_index for device in devices})
    if batch_size % len(numbers):
        raise UserError(
            "training.batch_size and training.microbatch_size must be multiples of the number of "
            f"processes {len(numbers)}, got {batch_size}"
        )
    own = [[device for device in devices if device.process_index == k] for k in numbers]
    count = math.gcd(batch_size // len(own), *map(len, own))
    chosen = [device for group in own for device in group[:count]]
    return Mesh(np.array(chosen), ("data",), axis_types=(AxisType.Auto,))


def split(mesh: Mesh) -> NamedSharding:
    """Leading axis divided among the devices: batches."""
    return NamedSharding(mesh, PartitionSpec("data"))


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on each device: parameters, optimiser state, metrics."""
    return NamedSharding(mesh, PartitionSpec())


def placed(shapes: Any, mesh: Mesh) -> Any:
    """A tree of shapes with the placement that a restored copy shall have: replicated."""
    return jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=replicated(mesh)), shapes
    )


def own_rows(count: int) -> slice:
    """Which of the `count` rows of a batch this process holds."""
    size = count // jax.process_count()
    return slice(jax.process_index() * size, (jax.process_index() + 1) * size)


def put_rows(rows: Any, mesh: Mesh) -> Any:
    """A batch on the mesh, divided by rows, from each process's `own_rows` (pytrees of arrays)."""
    placement = split(mesh)
    if jax.process_count() == 1:
        return jax.device_put(rows, placement)
    return jax.tree.map(lambda a: jax.make_array_from_process_local_data(placement, a), rows)


def put_whole(tree: Any, placement: jax.sharding.Sharding) -> Any:
    """Arrays that each process has whole and alike, placed on the devices of all."""
    # NumPy: JAX 0.10 makes broken arrays of device arrays where each process has one device.
    return jax.device_put(jax.device_get(tree), placement)


def fetch(tree: Any) -> Any:
    """NumPy copies of arrays, whole in every process, which must ask for them together."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return jax.tree.map(
        lambda a: (
            np.asarray(a)
            if a.is_fully_addressable or a.is_fully_replicated
            else multihost_utils.process_allgather(a, tiled=True)
        ),
        tree,
    )
