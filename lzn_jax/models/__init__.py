"""Networks of a config."""

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any
from zlib import crc32

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray
from ml_collections import ConfigDict

from lzn_jax import parts

Tree = Any  # nested containers of arrays, or of what JAX puts in their place
Module = Any  # a network with `init` and `apply`, as a flax module; or the class of one
Variables = dict[str, Tree]  # network name -> flax variables


def named(key: PRNGKeyArray, name: str) -> PRNGKeyArray:
    """Key for one use. Renaming a use changes the random numbers of all runs."""
    return jax.random.fold_in(key, crc32(name.encode()))


def key_or_seed(key: PRNGKeyArray | None, seed: int) -> PRNGKeyArray:
    """The given key, or the key of a run's seed if it is None."""
    return jax.random.key(seed) if key is None else key


def normal_by_index(
    key: PRNGKeyArray, name: str, index: Int[Array, " b"], shape: tuple[int, ...]
) -> Float[Array, "b ..."]:
    """Draws from N(0, I) of `shape`, one for each example index, whatever the batch."""
    keys = keys_by_index(key, name, index)
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def keys_by_index(key: PRNGKeyArray, name: str, index: Int[Array, " b"]) -> Key[Array, " b"]:
    """Key for each example index, whatever the batch."""
    return jax.vmap(functools.partial(jax.random.fold_in, named(key, name)))(index)


Network = Callable[..., Tree]


def by_example(network: Network, size: int | None) -> Network:
    """`call(variables, key, *inputs)` of `network(variables, keys, *inputs)`, in micro-batches.

    A micro-batch contains `size` examples, a divisor of the batch size b (None: b). The outputs (b,
    ...) of example i depend only on its inputs and its key, `jax.random.fold_in(key, i)`.
    """

    def call(variables: Tree, key: PRNGKeyArray, *inputs: Tree) -> Tree:
        count = len(jax.tree.leaves(inputs)[0])
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(count))
        if size is None or size >= count:
            return network(variables, keys, *inputs)
        if count % size:
            raise ValueError(f"micro-batches of {size} do not divide {count} examples")

        def step(nothing, micro_batch):
            keys, inputs = micro_batch
            return nothing, jax.checkpoint(network)(variables, keys, *inputs)

        micro_batches = jax.tree.map(lambda a: _split(a, size), (keys, inputs))
        _, outputs = jax.lax.scan(step, None, micro_batches)
        return jax.tree.map(_join, outputs)

    return call


def in_training(module: Module, size: int | None) -> Network:
    """`call(variables, key, *inputs)` of a module in training mode, `size` examples at a time."""
    has_dropout = getattr(module, "dropout", 0.0) > 0

    def apply(variables, key, *inputs):
        rngs = {"rngs": {"dropout": key}} if has_dropout else {}
        return module.apply(variables, *inputs, train=True, **rngs)

    # Without dropout, a call on a whole micro-batch is faster than one for each example.
    return by_example(with_own_keys(apply) if has_dropout else apply, size)


def with_own_keys(network: Network) -> Network:
    """Turns a network of one key into a network of a key for each example."""

    def one(variables, key, example):
        first = jax.tree.map(lambda a: a[None], example)
        return jax.tree.map(lambda a: a[0], network(variables, key, *first))

    def call(variables: Tree, keys: Key[Array, " b"], *inputs: Tree) -> Tree:
        return jax.vmap(one, in_axes=(None, 0, 0))(variables, keys, inputs)

    return call


def _split(a: jax.Array, size: int) -> jax.Array:
    """Micro-batches of every (b / size)-th example, so that each is spread over all devices."""
    return a.reshape(size, -1, *a.shape[1:]).swapaxes(0, 1)


def _join(a: jax.Array) -> jax.Array:
    return a.swapaxes(0, 1).reshape(-1, *a.shape[2:])


def has_latents(config: ConfigDict) -> bool:
    """Whether a config uses latents and encoders, unlike the rectified-flow baseline."""
    return config.latent.get("enabled", True)


def build(config: ConfigDict) -> dict[str, Module]:
    """Networks of a config by name, such as 'encoder', 'decoder' and 'label_anchors'.

    If `latent.enabled` is False, the only network is the 'decoder', a rectified flow.
    """
    modules: dict[str, Module] = {}
    for name in config.types:
        modules |= parts.get("type", name)(config).modules
    return modules


def encoder(config: ConfigDict) -> Module:
    """The network registered as `encoder.name`."""
    part, sizes = parts.get("encoder", config.encoder.name), {"latent_dim": config.latent.dim}
    return module(part, config.encoder, config, image_shape=image_shape(config), **sizes)


def image_shape(config: ConfigDict) -> tuple[int, int, int]:
    """Height, width and channels of images."""
    return config.data.image_size, config.data.image_size, config.data.channels


def side_multiple(values: Mapping[str, Any]) -> int:
    """What a side in pixels is a multiple of, so that networks of images patch and halve it."""
    networks = [
        (values.get(f"{name}.patch_size", 1), values.get(f"{name}.channel_multipliers", (1,)))
        for name in ("encoder", "decoder")
    ]
    return math.lcm(*(patch * 2 ** (len(levels) - 1) for patch, levels in networks))


def module(part: Module, group: ConfigDict, config: ConfigDict, **sizes: object) -> Module:
    """Instantiates a class of Flax Linen or NNX with the values of a config group.

    It is called with the values of the group by name, `training.compute_dtype` as `dtype`,
    `training.remat` as `remat`, and `sizes`. A part that is not a class is already a network.
    """
    if not isinstance(part, type):
        return part
    training = config.training
    values = {"dtype": jnp.dtype(training.compute_dtype), "remat": training.remat, **group, **sizes}
    build = functools.partial(part, **arguments(part.__init__, values))  # type: ignore[misc]
    return functional(build) if issubclass(part, nnx.Module) else build()


def arguments(function: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that are arguments of a function, by name."""
    # The fields `name` and `parent` of every flax module are not fields of the config.
    names = inspect.signature(function).parameters.keys() - {"name", "parent"}
    return {name: value for name, value in values.items() if name in names}


def built(part: Callable[..., Any], group: ConfigDict, **others: Any) -> Any:
    """Result of a part for those values of a config group, and others, that are its arguments."""
    return part(**arguments(part, {**group, **others}))


def functional(network: Module) -> Module:
    """Adds `init` and `apply` to an NNX class or a functools.partial of it. Others are returned."""
    made = getattr(network, "func", network)
    if not (isinstance(made, type) and issubclass(made, nnx.Module)):
        return network
    draws = float(bool(nnx.state(nnx.eval_shape(lambda: network(rngs=nnx.Rngs(0))), nnx.RngState)))
    return type(made.__qualname__, (FromNNX,), {"build": staticmethod(network), "dropout": draws})()


class FromNNX:
    """Pure functions of the network `build(rngs=...)`. `dropout` is 1 if it draws numbers."""

    build: Callable[..., Any]

    def init(self, key: PRNGKeyArray, *inputs: Tree, train: bool) -> Variables:
        """Initial variables."""
        network = self.build(rngs=nnx.Rngs(key))
        more: Variables = {"batch_stats": {}} if nnx.state(network, nnx.BatchStat) else {}
        return {"params": nnx.to_pure_dict(nnx.state(network, nnx.Param)), **more}

    def apply(
        self, variables: Tree, *inputs: Tree, train: bool, rngs: Mapping[str, Array] | None = None
    ) -> Tree:
        """Outputs in training mode or not. `train` is passed on to a network with this argument."""
        network = self.build(rngs=nnx.Rngs((rngs or {}).get("dropout", 0), params=0))
        params = nnx.state(network, nnx.Param)
        nnx.replace_by_pure_dict(params, variables["params"])
        nnx.update(network, params)
        (network.train if train else network.eval)()
        has_train = "train" in inspect.signature(network).parameters
        return network(*inputs, **({"train": train} if has_train else {}))


def split_variables(variables: Variables) -> tuple[Variables, Variables]:
    """Trained parameters by network, and variables that are not trained by network."""
    params = {name: tree["params"] for name, tree in variables.items()}
    constants = {
        name: {kind: values for kind, values in tree.items() if kind != "params"}
        for name, tree in variables.items()
    }
    return params, constants


def join_variables(params: Mapping[str, Tree], constants: Mapping[str, Tree]) -> Variables:
    """Inverse of `split_variables`."""
    return {name: {"params": params[name], **constants[name]} for name in params}
