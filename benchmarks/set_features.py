"""Image decoders `direct_maps` and `direct_mlp_maps`: sets of images are compared by features too.

An extension, which measures whether features of a frozen encoder raise the recall of samples in one
pass (arXiv:2602.04770 compares samples by such features alone). The encoder is the ResNet of a
representation run on the same data, trained without labels. The results are in docs/alone.md:

    V="--config.data.validation=287"
    python -m lzn_jax.main --config=configs/digits_repr.py --workdir=results/digits_repr $V
    E="python benchmarks/evidence.py digits_alone --seeds 1 $V"
    $E --variants LZN perceptual maps --folder results/maps
    $E --variants LZN --folder results/whole_images \
        --config.decoder.set_patch_size=8 --config.decoder.set_weight=0.25
    $E --variants LZN --folder results/longer --config.training.num_steps=2600

On clothes (the encoder of the validation runs was trained for 300 updates by Euler's method):

    V="--config.data.validation=5000"
    python -m lzn_jax.main --config=configs/fashion_repr.py --workdir=results/fashion_repr_300 $V \
        --config.training.num_steps=300 --config.latent.solver=euler --config.latent.num_steps=20
    E="python benchmarks/evidence.py fashion_alone --seeds 1 $V --config.training.num_steps=400"
    $E --variants drift_0.5 --folder results/pixels
    $E --variants conv_maps --folder results/maps --config.decoder.maps=results/fashion_repr_300
    # other weights, each in a folder of its own: --config.decoder.maps_weight=1
"""

import functools
from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

import lzn_jax
from lzn_jax import parts
from lzn_jax.decoders.one_pass import DirectDecoder
from lzn_jax.errors import UserError
from lzn_jax.losses.sets import SetLoss
from lzn_jax.models.resnet import ResNet
from lzn_jax.run import devices

SIDE = 2  # of the places at which maps are compared


@functools.cache
def frozen(workdir: str) -> tuple[ResNet, Any]:
    try:
        trained = lzn_jax.load(workdir)
    except UserError as error:
        raise UserError(f"decoder.maps must name a representation run: {error}") from error
    module = trained.space.modules["encoder"]
    if not isinstance(module, ResNet):
        raise UserError(f"decoder.maps must name a run with a ResNet as encoder, got {workdir}")
    return module, devices.fetch(trained.model.variables["encoder"])


def stages(network: ResNet, variables: Any, images: Array) -> list[Float[Array, "b h w c"]]:
    _, state = network.apply(variables, images, train=False, capture_intermediates=True)
    outputs = state["intermediates"]
    last = [f"stage_{i}_block_{size - 1}" for i, size in enumerate(network.stage_sizes)]
    return [outputs[name]["__call__"][0] for name in last]


def features(maps: Float[Array, "b h w c"]) -> list[Array]:
    """Means and standard deviations of channels (b, 2c), and means over quarters (4, b, c)."""
    b, h, w, c = maps.shape
    maps = maps.astype(jnp.float32)
    means, variances = jnp.mean(maps, axis=(1, 2)), jnp.var(maps, axis=(1, 2))
    moments = jnp.concatenate([means, jnp.sqrt(variances + 1e-6)], axis=1)
    cut = maps[:, : h - h % SIDE, : w - w % SIDE]
    quarters = cut.reshape(b, SIDE, h // SIDE, SIDE, w // SIDE, c).mean(axis=(2, 4))
    return [moments, quarters.reshape(b, SIDE**2, c).swapaxes(0, 1)]


class MapsDecoder(DirectDecoder):
    """A one-pass decoder, for which sets of images are compared by frozen features as well."""

    def __init__(self, config: Any, decoder: Any) -> None:
        super().__init__(config, decoder)
        self.frozen = frozen(config.decoder.maps)

    def loss_between_sets(
        self, variables: Any, generated: Array, images: Array, key: Array, set_loss: SetLoss
    ) -> Float[Array, ""]:
        """The loss between sets of images and patches, and its mean over features."""
        of_pixels = super().loss_between_sets(variables, generated, images, key, set_loss)
        both = (stages(*self.frozen, each) for each in (generated, images))
        losses = [
            jnp.mean(set_loss(x, y))
            for pair in zip(*both, strict=True)
            for x, y in zip(*map(features, pair), strict=True)
        ]
        return of_pixels + self.config.decoder.maps_weight * jnp.mean(jnp.stack(losses))


FIELDS = {
    "decoder.maps": parts.word("work folder of the representation run", "results/digits_repr"),
    "decoder.maps_weight": parts.amount("weight of the loss by features", 1.0),
}
for name in ("direct", "direct_mlp"):
    network, _ = parts.get("decoder", name)
    fields = {**parts.fields("decoder", name, {}), **FIELDS}
    check = parts.find("decoder", name).check
    parts.add(
        "decoder", f"{name}_maps", (network, MapsDecoder), fields, check=check, owner=__name__
    )
