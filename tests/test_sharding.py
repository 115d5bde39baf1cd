"""Placement on a mesh of fake devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lzn_jax import sharding


def test_there_are_eight_devices():
    assert jax.device_count() == 8  # else the other tests say nothing


@pytest.mark.parametrize(
    ("batch_size", "num_devices", "used"),
    [(16, 8, 8), (12, 8, 4), (2, 8, 2), (5, 8, 1), (9, 6, 3), (64, 1, 1)],
)
def test_mesh_has_as_many_devices_as_divide_the_batch(batch_size, num_devices, used):
    devices = jax.devices()[-num_devices:]
    mesh = sharding.make_mesh(batch_size, devices)
    assert mesh.shape == {"data": used}
    assert list(mesh.devices) == devices[:used]


def test_mesh_uses_all_devices_unless_told():
    assert list(sharding.make_mesh(24).devices) == jax.devices()


def test_split_divides_the_leading_axis():
    mesh = sharding.make_mesh(12)
    batch = np.arange(12 * 6).reshape(12, 6)
    shards = jax.device_put(batch, sharding.split(mesh)).addressable_shards
    assert len(shards) == 4
    for k, shard in enumerate(sorted(shards, key=lambda shard: shard.device.id)):
        np.testing.assert_array_equal(shard.data, batch[3 * k : 3 * k + 3])


def test_replicated_is_whole_on_each_device():
    mesh = sharding.make_mesh(8)
    params = {"kernel": np.arange(16.0).reshape(8, 2), "step": np.int32(3)}
    placed = jax.device_put(params, sharding.replicated(mesh))
    for name, value in params.items():
        shards = placed[name].addressable_shards
        assert {shard.device for shard in shards} == set(jax.devices())
        for shard in shards:
            np.testing.assert_array_equal(shard.data, value)


def test_a_reduction_over_a_split_batch_is_the_global_one():
    mesh = sharding.make_mesh(8)
    batch = jax.device_put(jnp.arange(8.0), sharding.split(mesh))
    mean = jax.jit(jnp.mean, out_shardings=sharding.replicated(mesh))(batch)
    assert [float(shard.data) for shard in mean.addressable_shards] == [3.5] * 8


def test_placed_keeps_shapes_and_replicates():
    mesh = sharding.make_mesh(4)
    tree = {
        "a": jax.ShapeDtypeStruct((4, 3), jnp.float32),
        "b": jax.ShapeDtypeStruct((), jnp.int32),
    }
    placed = sharding.placed(tree, mesh)
    assert {name: (leaf.shape, leaf.dtype) for name, leaf in placed.items()} == {
        "a": ((4, 3), jnp.float32),
        "b": ((), jnp.int32),
    }
    for leaf in placed.values():
        assert leaf.sharding.is_fully_replicated
        assert leaf.sharding.device_set == set(jax.devices()[:4])
