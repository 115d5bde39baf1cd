"""The one place that decides which device holds what.

One mesh axis, `data`: batches are divided over it, parameters are copied, or, for networks that do
not fit, divided as well (FSDP, Zhao et al. 2023, arXiv:2304.11277): XLA then gathers an array where
it is used. Nothing else of the package knows.
"""

import math
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from lzn_jax.configuration import UserError

MIN_SHARDED = 2**14  # elements; less is not worth the exchange


def make_mesh(batch_size: int, devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh with axis `data` over as many devices as divide the global batch evenly."""
    chosen = dividing(batch_size, at_hand() if devices is None else devices)
    return Mesh(np.array(chosen), ("data",), axis_types=(AxisType.Auto,))


def inference_mesh() -> Mesh:
    """A mesh with axis `data` over all devices: batches of inference are filled up."""
    devices = [device for group in _by_process(at_hand()) for device in group]
    return Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))


def training_mesh(training: ConfigDict, devices: list[jax.Device] | None = None) -> Mesh:
    """The mesh over which a config's batches are divided, as `training.devices` says.

    Raises UserError for batches or micro-batches that would leave devices idle, unless it says
    `dividing`, and for more devices than there are.
    """
    devices = at_hand() if devices is None else devices
    if isinstance(training.devices, int):
        devices = _first(training.devices, devices)
    size = examples_at_a_time(training)
    if training.devices != "dividing" and size % len(devices):
        raise UserError(_idle(training, len(devices)))
    return make_mesh(size, devices)


def examples_at_a_time(training: ConfigDict) -> int:
    """How many examples the networks see at once."""
    size: int = training.microbatch_size or training.batch_size
    return size


def _idle(training: ConfigDict, count: int) -> str:
    """What to say of sizes that not all devices divide, with the nearest that they do."""
    whole, part = training.batch_size, training.microbatch_size
    is_part = bool(part) and whole % count == 0
    name, size = ("microbatch_size", part) if is_part else ("batch_size", whole)
    most = whole if is_part else size + count
    fit = [n for n in range(count, most + 1, count) if not is_part or whole % n == 0]
    nearest = [*[n for n in fit if n < size][-1:], *[n for n in fit if n > size][:1]]
    idle = count - math.gcd(size, count)
    are = "sizes that use all are" if len(nearest) > 1 else "size that uses all is"
    return (
        f"training.{name}={size} would leave {idle} of {count} devices idle: the nearest "
        f"{are} {' and '.join(map(str, nearest))} (or training.devices=dividing leaves them idle)"
    )


def at_hand() -> list[jax.Device]:
    """All devices: those of a mesh in force (`jax.set_mesh`), else those of the machine."""
    mesh = jax.sharding.get_mesh()
    return jax.devices() if mesh.empty else list(mesh.devices.flat)


def dividing(batch_size: int, devices: list[jax.Device]) -> list[jax.Device]:
    """As many devices as divide a batch, equally many of each process, one after the other.

    Raises UserError for a batch that the processes cannot share.
    """
    own = _by_process(devices)
    if batch_size % len(own):
        raise UserError(
            "training.batch_size and training.microbatch_size must be multiples of the number of "
            f"processes {len(own)}, got {batch_size}"
        )
    count = math.gcd(batch_size // len(own), *map(len, own))
    return [device for group in own for device in group[:count]]


def _first(count: int, devices: list[jax.Device]) -> list[jax.Device]:
    own = _by_process(devices)
    each, rest = divmod(count, len(own))
    if rest or each > min(map(len, own)):
        raise UserError(
            f"training.devices must be a multiple of the number of processes {len(own)} and at "
            f"most {len(devices)}, the number of devices, got {count}"
        )
    return [device for group in own for device in group[:each]]


def _by_process(devices: list[jax.Device]) -> list[list[jax.Device]]:
    numbers = sorted({device.process_index for device in devices})
    return [[device for device in devices if device.process_index == k] for k in numbers]


def split(mesh: Mesh) -> NamedSharding:
    """Leading axis divided among the devices: batches."""
    return NamedSharding(mesh, PartitionSpec("data"))


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on each device: metrics, and parameters unless they are sharded."""
    return NamedSharding(mesh, PartitionSpec())


def placed(shapes: Any, mesh: Mesh, *, shard: bool = False) -> Any:
    """A tree of shapes of parameters or optimiser state with the placement that they shall have.

    That is a whole copy on each device. With `shard` each device has its part of the arrays of at
    least MIN_SHARDED elements, along the longest axis that the devices divide evenly.
    """

    def place(a: Any) -> jax.ShapeDtypeStruct:
        spec = _parts(a.shape, mesh.size) if shard else PartitionSpec()
        return jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=NamedSharding(mesh, spec))

    return jax.tree.map(place, shapes)


def _parts(shape: tuple[int, ...], count: int) -> PartitionSpec:
    axes = [k for k, length in enumerate(shape) if length % count == 0]
    if math.prod(shape) < MIN_SHARDED or not axes:
        return PartitionSpec()
    longest = max(axes, key=lambda k: shape[k])
    return PartitionSpec(*[None] * longest, "data")


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


def bytes_on_a_device(tree: Any) -> int:
    """What arrays, or placed shapes, take on each device."""
    return sum(
        math.prod(a.sharding.shard_shape(a.shape)) * a.dtype.itemsize for a in jax.tree.leaves(tree)
    )
