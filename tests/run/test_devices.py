"""Placement on a mesh of fake devices."""

import os
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from lzn_jax.errors import UserError
from lzn_jax.run import devices as devices_module


@pytest.mark.parametrize(
    ("batch_size", "num_devices", "used"),
    [(16, 8, 8), (12, 8, 4), (2, 8, 2), (5, 8, 1), (9, 6, 3), (64, 1, 1)],
)
def test_mesh_has_as_many_devices_as_divide_the_batch(batch_size, num_devices, used):
    assert jax.device_count() == 8  # else the other tests say nothing
    devices = jax.devices()[-num_devices:]
    mesh = devices_module.make_mesh(batch_size, devices)
    assert mesh.shape == {"data": used}
    assert list(mesh.devices) == devices[:used]


def _training(batch_size, microbatch_size=None, devices="all", **more):
    return ConfigDict(
        {"batch_size": batch_size, "microbatch_size": microbatch_size, "devices": devices, **more}
    )


@pytest.mark.parametrize(
    ("training", "used"),
    [
        (_training(16), 8),
        (_training(12, devices="dividing"), 4),
        (_training(12, devices=6), 6),
        (_training(48, 16), 8),
        (_training(48, 12, "dividing"), 4),
        (_training(48, 12, 2), 2),
        (_training(48, 16, queries=24), 8),
        (_training(48, devices="dividing", queries=12), 4),
        (_training(24, 12, "dividing", queries=8), 4),
    ],
)
def test_devices_of_training_are_all_or_as_many_as_divide_or_a_number(training, used):
    assert list(devices_module.training_mesh(**training).devices) == jax.devices()[:used]


@pytest.mark.parametrize(
    ("training", "message"),
    [
        (_training(12), "batch_size=12 would leave 4 of 8 devices idle.*: 8 and 16 "),
        (_training(5), "batch_size=5 would leave 7 of 8 devices idle.*: 8 "),
        (_training(12, 4), "batch_size=12 would leave 4 of 8 devices idle.*: 8 and 16 "),
        (_training(16, 4), "microbatch_size=4 would leave 4 of 8.*: 8 "),
        (_training(2000, 400, queries=500), "queries=500 would leave 4 of 8.*: 400 and 1000 "),
        (_training(12, devices=5), "batch_size=12 would leave 4 of 5 devices idle.*10 and 15 "),
        (_training(12, devices=9), "at most 8, the number of devices, got 9"),
    ],
)
def test_sizes_that_would_leave_devices_idle_are_refused(training, message):
    with pytest.raises(UserError, match=message):
        devices_module.training_mesh(**training)


def test_a_users_mesh_in_force_says_which_devices_are_at_hand():
    devices = jax.devices()[2:6]
    with jax.set_mesh(jax.make_mesh((2, 2), ("a", "b"), devices=devices)):
        assert list(devices_module.inference_mesh().devices) == devices
        assert list(devices_module.training_mesh(**_training(12)).devices) == devices
    assert list(devices_module.inference_mesh().devices) == jax.devices()


def test_split_divides_the_leading_axis_and_replicated_is_whole_on_each_device():
    mesh = devices_module.make_mesh(12)
    batch = np.arange(12 * 6).reshape(12, 6)
    shards = jax.device_put(batch, devices_module.split(mesh)).addressable_shards
    assert len(shards) == 4
    for k, shard in enumerate(sorted(shards, key=lambda shard: shard.device.id)):
        np.testing.assert_array_equal(shard.data, batch[3 * k : 3 * k + 3])
    shards = jax.device_put(batch, devices_module.replicated(mesh)).addressable_shards
    assert {shard.device for shard in shards} == set(jax.devices()[:4])
    for shard in shards:
        np.testing.assert_array_equal(shard.data, batch)


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((256, 128), ("data", None)),  # the longest axis
        ((3, 3, 128, 256), (None, None, None, "data")),
        ((250, 128), (None, "data")),  # the longest that 8 divides
        ((251, 129), ()),  # none is divided
        ((8, 8), ()),  # too small
        ((), ()),
    ],
)
def test_large_arrays_are_sharded_along_the_longest_axis_that_devices_divide(shape, spec):
    mesh = devices_module.make_mesh(8)
    a = jax.ShapeDtypeStruct(shape, jnp.bfloat16)
    whole, part = (devices_module.placed(a, mesh, shard=shard) for shard in (False, True))
    assert whole.sharding == devices_module.replicated(mesh)
    expected = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
    assert part.sharding.is_equivalent_to(expected, len(shape))
    assert (part.shape, part.dtype) == (a.shape, a.dtype)


def test_bytes_on_a_device_are_those_of_its_parts():
    mesh = devices_module.make_mesh(8)
    shapes = {
        "large": jax.ShapeDtypeStruct((256, 256), jnp.float32),
        "small": jax.ShapeDtypeStruct((3,), jnp.int8),
    }
    for shard, size in ((False, 4 * 256 * 256 + 3), (True, 4 * 256 * 32 + 3)):
        placed = devices_module.placed(shapes, mesh, shard=shard)
        assert devices_module.bytes_on_a_device(placed) == size
        zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype, device=a.sharding), placed)
        assert sum(a.addressable_data(0).nbytes for a in jax.tree.leaves(zeros)) == size


def test_processes_share_the_mesh_evenly_and_each_its_rows(monkeypatch):
    # Two processes whose devices take turns, as some machines number them.
    devices = [Mock(spec=jax.Device, process_index=i % 2) for i in range(8)]
    for batch_size, count in ((16, 8), (12, 4), (6, 2)):
        own = [d.process_index for d in devices_module.dividing(batch_size, devices)]
        assert own == [0] * (count // 2) + [1] * (count // 2)
    with pytest.raises(UserError, match="multiples of the number of processes 2, got 15"):
        devices_module.dividing(15, devices)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    assert devices_module.own_rows(12) == slice(6, 12)
    with pytest.raises(UserError, match=r"multiple of the number of processes 2 .* got 3"):
        devices_module.training_mesh(**_training(12, devices=3), available=devices)
    many = [Mock(spec=jax.Device, process_index=i // 4) for i in range(256)]
    with pytest.raises(UserError, match=r"batch_size=2000 would leave 240 of 256 .* 1792 and 2048"):
        devices_module.training_mesh(**_training(2000), available=many)


def test_processes_share_the_cores_that_they_have_in_common(monkeypatch):
    """Four processes of a host with eight cores, and one that is bound to two others."""

    def gather(own):
        return np.array([own, own, own, own, own + 1])

    monkeypatch.setattr(devices_module.multihost_utils, "process_allgather", gather)
    monkeypatch.setattr(devices_module.os, "sched_getaffinity", lambda _: set(range(8)))
    assert devices_module.own_cores() == 2
    monkeypatch.undo()
    assert devices_module.own_cores() == len(os.sched_getaffinity(0))
