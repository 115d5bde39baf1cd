"""Placement of batches and parameters on a mesh of devices with one axis, `data`.

Batches are sharded over this axis. Parameters are replicated, or sharded as well for networks that
do not fit (FSDP, Zhao et al. 2023, arXiv:2304.11277). XLA then gathers an array where it is used.
"""

import math
import os
import platform
import zlib

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lzn_jax.errors import UserError
from lzn_jax.models import Tree

MIN_SHARDED = 2**14  # elements; gathering smaller arrays costs more than it saves


def make_mesh(batch_size: int, devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh with axis `data` over the most devices that divide the global batch evenly."""
    chosen = dividing(batch_size, _available() if devices is None else devices)
    return Mesh(np.array(chosen), ("data",), axis_types=(AxisType.Auto,))


def inference_mesh() -> Mesh:
    """A mesh with axis `data` over all devices. Batches of inference are padded to fit."""
    devices = [device for group in _by_process(_available()) for device in group]
    return Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))


def training_mesh(
    devices: int | str,
    batch_size: int,
    microbatch_size: int | None,
    queries: int | None = None,
    available: list[jax.Device] | None = None,
) -> Mesh:
    """Mesh over which batches are sharded in training, given values of the group `training`.

    Raises UserError for more devices than available, and for batches, micro-batches or queries that
    would leave devices idle, unless `training.devices` is `dividing`.
    """
    used = _available() if available is None else available
    if isinstance(devices, int):
        own = _by_process(used)
        each, rest = divmod(devices, len(own))
        if rest or each > min(map(len, own)):
            raise UserError(
                f"training.devices must be a multiple of the number of processes {len(own)} and at "
                f"most {len(used)}, the number of devices, got {devices}"
            )
        used = [device for group in own for device in group[:each]]
    # Numbers of rows that are sharded.
    rows = {"batch_size": batch_size, "microbatch_size": microbatch_size, "queries": queries}
    sizes = {name: size for name, size in rows.items() if size is not None}
    if devices != "dividing" and any(size % len(used) for size in sizes.values()):
        raise UserError(_idle(sizes, len(used)))
    return make_mesh(math.gcd(*sizes.values()), used)


def _idle(sizes: dict[str, int], count: int) -> str:
    """Message for the first size that leaves devices idle, with the nearest valid sizes."""
    whole = sizes["batch_size"]
    name, size = next((name, size) for name, size in sizes.items() if size % count)
    is_part = name != "batch_size"
    fit = [n for n in range(count, whole + count + 1, count) if not is_part or whole % n == 0]
    nearest = [*[n for n in fit if n < size][-1:], *[n for n in fit if n > size][:1]]
    idle = count - math.gcd(size, count)
    return (
        f"training.{name}={size} would leave {idle} of {count} devices idle: the nearest that use "
        f"all: {' and '.join(map(str, nearest))} (or allow idle devices with "
        "training.devices=dividing)"
    )


def _available() -> list[jax.Device]:
    """Devices of the current mesh (`jax.set_mesh`), or else all devices."""
    mesh = jax.sharding.get_mesh()
    return jax.devices() if mesh.empty else list(mesh.devices.flat)


def dividing(batch_size: int, devices: list[jax.Device]) -> list[jax.Device]:
    """As many devices as divide a batch evenly, equally many per process, sorted by process.

    Raises UserError if the processes do not divide the batch evenly.
    """
    own = _by_process(devices)
    if batch_size % len(own):
        raise UserError(
            "training.batch_size and training.microbatch_size must be multiples of the number of "
            f"processes {len(own)}, got {batch_size}"
        )
    count = math.gcd(batch_size // len(own), *map(len, own))
    return [device for group in own for device in group[:count]]


def _by_process(devices: list[jax.Device]) -> list[list[jax.Device]]:
    numbers = sorted({device.process_index for device in devices})
    return [[device for device in devices if device.process_index == k] for k in numbers]


def split(mesh: Mesh) -> NamedSharding:
    """Placement of batches, whose leading axis is sharded over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def replicated(mesh: Mesh) -> NamedSharding:
    """Placement of metrics, and of unsharded parameters, as a copy on each device."""
    return NamedSharding(mesh, PartitionSpec())


def placed(shapes: Tree, mesh: Mesh, *, shard: bool = False) -> Tree:
    """Shapes of parameters or optimiser state with their placement, by default replicated.

    With `shard`, arrays of at least MIN_SHARDED elements are sharded along the longest axis that
    the devices divide evenly.
    """

    def place(a: np.ndarray | jax.Array | jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        spec = PartitionSpec()
        axes = [k for k, length in enumerate(a.shape) if length % mesh.size == 0]
        if shard and axes and math.prod(a.shape) >= MIN_SHARDED:
            spec = PartitionSpec(*[None] * max(axes, key=lambda k: a.shape[k]), "data")
        return jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=NamedSharding(mesh, spec))

    return jax.tree.map(place, shapes)


def own_rows(count: int) -> slice:
    """Range of this process's rows of a batch with `count` rows in total."""
    size = count // jax.process_count()
    return slice(jax.process_index() * size, (jax.process_index() + 1) * size)


def put_rows(rows: Tree, mesh: Mesh) -> Tree:
    """Shards a batch over the mesh. `rows` are this process's `own_rows` (pytrees of arrays)."""
    return jax.make_array_from_process_local_data(split(mesh), rows)


def put_whole(tree: Tree, placement: jax.sharding.Sharding) -> Tree:
    """Places arrays that are equal in all processes on the devices of all processes."""
    # Goes through NumPy, since JAX 0.10 breaks device arrays if each process owns one device.
    return jax.device_put(jax.device_get(tree), placement)


def fetch(tree: Tree) -> Tree:
    """Complete NumPy copies of arrays in every process. Every process must call this."""
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


def own_cores() -> int:
    """Cores of the CPU for this process: its share of the cores that processes of this host use.

    Every process must call this.
    """
    cores = sorted(os.sched_getaffinity(0))
    own = np.uint32(zlib.crc32(f"{platform.node()} {cores}".encode()))
    sharing = np.sum(multihost_utils.process_allgather(own) == own)
    return max(1, len(cores) // int(sharing))


def bytes_on_a_device(tree: Tree) -> int:
    """Bytes of arrays, or of shapes with a placement, on each device."""
    return sum(
        math.prod(a.sharding.shard_shape(a.shape)) * a.dtype.itemsize for a in jax.tree.leaves(tree)
    )


def everywhere(flag: bool) -> bool:
    """Whether the flag is set in all processes. Every process must call this."""
    return bool(np.all(multihost_utils.process_allgather(np.array(flag))))


def anywhere(flag: bool) -> bool:
    """Whether the flag is set in at least one process. Every process must call this."""
    return not everywhere(not flag)
