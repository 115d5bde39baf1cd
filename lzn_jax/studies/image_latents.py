"""Anchors and latents of images: an encoder, its flow and a bank of context anchors."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8
from ml_collections import ConfigDict

from lzn_jax import zoning
from lzn_jax.configuration import UserError
from lzn_jax.data import Examples, Images, normalise
from lzn_jax.microbatches import in_training
from lzn_jax.models import Variables
from lzn_jax.randomness import Stream, key_or_seed, normal_by_index, stream_key


def make_solver(config: ConfigDict, flow: Literal["latent", "alignment"]) -> zoning.Solver:
    """The solver of one of a config's two flows."""
    setting = config[flow]
    solver = zoning.SOLVERS[setting.solver]
    return solver(setting.num_steps, precision=config.latent.precision)


class ImageLatents:
    """The image encoder of a config; `in_batches` runs a function over any number of images.

    A latent exists only relative to other anchors. In inference these are the context anchors,
    or, with `latent.context_size` 0 as in the paper, the other images at hand.
    """

    def __init__(
        self, config: ConfigDict, encoder: nn.Module, in_batches: Callable[..., Any]
    ) -> None:
        self.config = config
        self.encoder = encoder
        self.solver = make_solver(config, "latent")
        self._in_batches = in_batches
        self._jitted_anchors = jax.jit(self.anchors)
        self._jitted_latents = jax.jit(self.latents_in_context, static_argnames="stream")

    def training_latents(
        self,
        variables: Variables,
        images: Float[Array, "b h w c"],
        key: PRNGKeyArray,
        draws: Sequence[tuple[PRNGKeyArray, float]],
    ) -> list[Float[Array, "b q"]]:
        """Latents in training mode, for each key and noise scale of `draws`; `key` is dropout's."""
        config = self.config
        network = in_training(
            self.encoder, config.encoder.get("dropout", 0), config.training.microbatch_size
        )
        anchors: Array = network(variables["encoder"], key, images)
        return [self.draw(anchors, *each) for each in draws]

    def draw(self, anchors: Array, key: jax.Array, noise_scale: float) -> Float[Array, "b q"]:
        """Latents of a training batch among its own anchors, noise scaled by α (paper §2.2.1)."""
        noise = noise_scale * jax.random.normal(key, anchors.shape, anchors.dtype)
        return zoning.compute_latents(anchors, noise, solver=self.solver)

    def anchors(self, variables: Variables, images: UInt8[Array, "b h w c"]) -> Float[Array, "b q"]:
        """Anchors of images, a pure function."""
        output: Any = self.encoder.apply(variables["encoder"], normalise(images), train=False)
        return output

    def all_anchors(
        self, variables: Variables, images: Images, description: str = "encoding"
    ) -> np.ndarray:
        """Anchors of any number of images."""
        encode = functools.partial(self._jitted_anchors, variables)
        anchors: np.ndarray = self._in_batches(encode, images, description=description)
        return anchors

    def latents_in_context(
        self,
        context: Float[Array, "c q"],
        key: PRNGKeyArray,
        noise_scale: Float[Array, ""] | float,
        request: Mapping[str, Array],
        stream: Stream = Stream.IMAGE_LATENTS,
    ) -> Float[Array, "b q"]:
        """Latents of `anchors` (b, q), each with the noise of its `index`: a pure function."""
        anchors = request["anchors"]
        noise = noise_scale * normal_by_index(key, stream, request["index"], anchors.shape[1:])
        return zoning.latents_in_context(anchors, context, noise, solver=self.solver)

    def latents(
        self,
        context: Mapping[str, Array],
        anchors: np.ndarray,
        noise_scale: float,
        stream: Stream = Stream.IMAGE_LATENTS,
        key: PRNGKeyArray | None = None,
        index: Int[np.ndarray, " n"] | None = None,
    ) -> Float[np.ndarray, "n q"]:
        """Latents among the context anchors, or, without any, among the images themselves.

        The key is consumed, None is that of the config's seed. Noise goes by `index`, None is the
        place in `anchors`: sets that are compared need streams of their own.
        """
        key = key_or_seed(key, self.config.seed)
        if index is None:
            index = np.arange(len(anchors))
        if not context:
            noise = noise_scale * normal_by_index(
                key, stream, jnp.asarray(index), anchors.shape[1:]
            )
            return np.asarray(zoning.compute_latents(anchors, noise, solver=self.solver))
        draw = functools.partial(
            self._jitted_latents, context["anchors"], key, noise_scale, stream=stream
        )
        latents: np.ndarray = self._in_batches(
            draw, {"anchors": anchors, "index": index}, description="zoning"
        )
        return latents

    def of_images(
        self,
        variables: Variables,
        context: Mapping[str, Array],
        images: Images,
        noise_scale: float,
        key: PRNGKeyArray | None = None,
    ) -> Float[np.ndarray, "n q"]:
        """`latents` of images by their anchors."""
        return self.latents(context, self.all_anchors(variables, images), noise_scale, key=key)

    def features(
        self,
        context: Mapping[str, Array],
        anchors: np.ndarray,
        stream: Stream = Stream.IMAGE_LATENTS,
        key: PRNGKeyArray | None = None,
        index: Int[np.ndarray, " n"] | None = None,
    ) -> dict[str, Float[np.ndarray, "n q"]]:
        """`latents` by name: 'latent' at the config's α, 'latent_centre' at α = 0."""
        scales = {"latent": self.config.latent.noise_scale, "latent_centre": 0.0}
        return {
            name: self.latents(context, anchors, scale, stream, key, index)
            for name, scale in scales.items()
        }

    def context(self, variables: Variables, train: Examples) -> dict[str, jax.Array]:
        """Anchors of a fixed random sample of training images, labels not used."""
        if not self.context_shapes():
            return {}
        key = stream_key(self.config.seed, Stream.CONTEXT)
        chosen = jax.random.permutation(key, len(train.images))[: self.config.latent.context_size]
        images = train.images[np.asarray(chosen)]
        return {"anchors": jnp.asarray(self.all_anchors(variables, images, "context anchors"))}

    def context_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape of the bank of context anchors; empty without any."""
        latent = self.config.latent
        if latent.context_size == 0:
            return {}
        shape = (latent.context_size, latent.dim)
        return {"anchors": jax.ShapeDtypeStruct(shape, jnp.float32)}


class NoLatents:
    """In the place of `ImageLatents` where there is no encoder: None for latents, no context."""

    def training_latents(
        self, variables: Variables, images: Array, key: PRNGKeyArray, draws: Sequence[Any]
    ) -> list[None]:
        return [None] * len(draws)

    def of_images(self, *_: Any) -> None:
        return None

    def context(self, *_: Any) -> dict[str, Any]:
        return {}

    context_shapes = context

    def all_anchors(self, *_: Any) -> NoReturn:
        raise UserError("a run with latent.enabled=False has no encoder, anchors or latents")
