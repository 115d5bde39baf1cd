"""Decoders that generate images in one evaluation of a network (paper appendix G)."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8
from ml_collections import ConfigDict

from lzn_jax import models, parts
from lzn_jax.data import normalise
from lzn_jax.data_types import Batch, Condition, Keys, Loss
from lzn_jax.decoders.flow import ImageDecoder
from lzn_jax.losses import sets
from lzn_jax.models import Module, Tree, Variables
from lzn_jax.models.mlp import MLPGenerator
from lzn_jax.models.ncsnpp import NCSNppGenerator, check_resolutions
from lzn_jax.parts import amount, choice, count, knobs, require

ERRORS: dict[str, Callable[[Array], Array]] = {"l2": jnp.square, "l1": jnp.abs}


class DirectDecoder(ImageDecoder):
    """One-pass decoder from a latent to an image, without noise (open in the paper's App. G)."""

    error: Callable[[Array], Array]  # of each image
    set_loss: sets.SetLoss
    set_weight: float
    set_anchors: float  # weight of anchors in the loss between sets
    patches: Mapping[str, int]  # their size and number
    encoder: Module  # of the anchors, if they have a weight

    @classmethod
    def from_config(cls, config: ConfigDict, module: Module) -> Any:
        made, setting = super().from_config(config, module), config.decoder
        made.error, made.set_loss = ERRORS[setting.error], sets.SET_LOSSES[setting.set_loss]
        made.set_weight, made.set_anchors = setting.set_weight, setting.set_anchors
        made.patches = {"patch_size": setting.set_patch_size, "num_patches": setting.set_patches}
        if made.set_anchors > 0:
            made.encoder = models.encoder(config)
        return made

    def init(self, key: PRNGKeyArray, condition: Condition) -> Tree:
        return self.module.init(key, *condition, train=False)

    def loss(self, variables: Variables, batch: Batch, condition: Condition, keys: Keys) -> Loss:
        """Mean error of the images plus a loss between the sets of generated and real images."""
        images, (key, dropout_key) = normalise(batch["images"]), keys
        condition = self.drop_condition(condition, key)
        generated = self.in_training()(variables[self.network], dropout_key, *condition)
        distance = self.loss_between_sets(variables, generated, images, key)
        return jnp.mean(self.error(generated - images)) + self.set_weight * distance

    def loss_between_sets(
        self,
        variables: Variables,
        generated: Float[Array, "b h w c"],
        images: Float[Array, "b h w c"],
        key: PRNGKeyArray,
    ) -> Float[Array, ""]:
        """Loss between generated and real images, their patches and, with `set_anchors`, anchors.

        The encoder of the anchors receives no gradient. The key is consumed.
        """
        distance = sets.image_set_loss(self.set_loss, generated, images, key, **self.patches)
        if self.set_anchors > 0:
            fixed = jax.lax.stop_gradient(variables["encoder"])
            x, y = (self.encoder.apply(fixed, each, train=False) for each in (generated, images))
            distance += self.set_anchors * self.set_loss(x, y)
        return distance

    def generate(
        self, variables: Variables, key: PRNGKeyArray, condition: Condition, index: Int[Array, " b"]
    ) -> dict[str, Array]:
        """`images` of latents, and `num_evaluations` of the network, which is 1."""
        del key  # the latents are the only noise
        images = self.render(variables, jnp.zeros((len(index), 0)), condition)
        return {"images": images, "num_evaluations": jnp.ones_like(index)}

    def invert(
        self, variables: Variables, samples: UInt8[Array, "b h w c"], condition: Condition
    ) -> Float[Array, "b 0"]:
        """Noise without dimensions, since images depend only on the latents."""
        return jnp.zeros((len(samples), 0))

    def misfits(
        self, variables: Variables, samples: UInt8[Array, "b h w c"], condition: Condition
    ) -> Float[Array, " b"]:
        """Mean squared error of the images of latents."""
        errors = self.floats(variables, jnp.zeros(0), condition) - self.inputs(samples)
        return jnp.mean(errors**2, axis=(1, 2, 3))

    def floats(self, variables: Variables, noise: Array, condition: Condition) -> Array:
        return self.module.apply(variables[self.network], *condition, train=False)


def _check_one_pass(values: Mapping[str, Any]) -> None:
    for name in ("latent.enabled", "decoder.sources"):
        require(bool(values[name]), f"a one-pass decoder requires {name}, got {values[name]}")
    draws = values["training.flow_draws"]
    require(draws == 1, f"training.flow_draws must be 1: one-pass decoders draw none, got {draws}")
    name = "training.batch_size" if values["training.queries"] is None else "training.queries"
    require(values[name] >= 2, f"{name} must be >= 2 for a loss between sets, got {values[name]}")
    side, size = values["data.image_size"], values["decoder.set_patch_size"]
    require(size <= side, f"decoder.set_patch_size must be <= data.image_size {side}, got {size}")


def _check_direct(values: Mapping[str, Any]) -> None:
    check_resolutions(values, "decoder")
    _check_one_pass(values)


_ONE_PASS = {
    "decoder.error": choice("error of each image with pixels in [-1, 1]", *ERRORS),
    "decoder.set_loss": choice("loss between generated and real images as sets", *sets.SET_LOSSES),
    "decoder.set_weight": amount("weight of the loss between sets", 1.0),
    "decoder.set_anchors": amount("weight of anchors in the loss between sets", 0.0),
    "decoder.set_patch_size": count("side of the patches in the loss between sets", 4),
    "decoder.set_patches": count("maximum number of patch positions in each update", 25),
}
for _name, _network, _check in (
    ("direct", NCSNppGenerator, _check_direct),
    ("direct_mlp", MLPGenerator, _check_one_pass),
):
    _fields = knobs(_network, "decoder") | _ONE_PASS
    parts.add(
        "decoder",
        _name,
        (_network, DirectDecoder.from_config),
        _fields,
        check=_check,
        owner=__name__,
    )
