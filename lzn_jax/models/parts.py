"""Registers the image networks with their config fields and checks."""

import functools
from collections.abc import Mapping
from typing import Any

from lzn_jax import parts
from lzn_jax.parts import (
    Check,
    Field,
    choice,
    count,
    counts,
    flag,
    group,
    positive,
    require,
    share_below_1,
)

_NCSNPP = {
    "patch_size": count("side of the patches of pixels that become one pixel", 1),
    "features": Field(int, "channels of the first level", minimum=4, multiple_of=4),
    "channel_multipliers": counts(
        "channels of each level as multiples of features, finest level first", nonempty=True
    ),
    "num_res_blocks": count("residual blocks of each level"),
    "attention_resolutions": counts("widths of feature maps with attention", ()),
    "dropout": share_below_1("dropout rate of the residual blocks", 0.0),
    "fir": flag("resample with the FIR filter (1, 3, 3, 1)", False),
    "progressive_input": choice("input pyramid", "none", "input_skip"),
}
_NCSNPP_ENCODER = _NCSNPP | {
    "tap_channels": count("channels of each latent tap", 20),
    "tap_units": count("hidden units of the MLP of each tap", 200),
    "tap_layers": Field(int, "dense layers of the MLP of each tap", 2, minimum=2),
    "tap_resolutions": counts("widths of feature maps with taps, None = all", None, nonempty=True),
}
_NCSNPP_DECODER = _NCSNPP | {
    "progressive": choice("output pyramid", "none", "output_skip"),
    "time_embedding": choice("embedding of time", "positional", "fourier"),
    "fourier_scale": positive("standard deviation of the Fourier frequencies", 16.0),
    "scale_by_sigma": flag("divide the output by the noise level", False),
}
_GENERATOR = {name: field for name, field in _NCSNPP.items() if name != "progressive_input"}
_RESNET = {
    "stage_sizes": counts("blocks of each stage", nonempty=True),
    "stage_widths": counts("bottleneck width of each stage, 1/4 of its channels", nonempty=True),
    "stem": choice(
        "first layers, 'imagenet' = halve the image twice, 'small' = keep its size",
        "imagenet",
        "small",
    ),
    "stem_width": count("channels of the stem", 64),
    "selective_kernel_ratio": parts.amount(
        "hidden units over width in the selection between kernels, 0 = a single kernel", 0.0
    ),
    "norm_groups": count("groups of the normalisations", 32),
    "head_dim": count("outputs of the head, equal to latent.dim"),
    "head_layers": count("dense layers of the head", 2),
}
_MLP = {
    "features": Field(int, "units of each layer", minimum=4, multiple_of=4),
    "num_blocks": count("residual blocks"),
    "dropout": share_below_1("dropout rate of the blocks", 0.0),
}
_FLOW = {
    "sampling.sampler": choice("solver of the decoder's flow", "rk45", "euler"),
    "sampling.num_steps": count("steps of the Euler sampler", 100),
}
_ONE_PASS = {
    "decoder.error": choice("error of each image with pixels in [-1, 1]", "l2", "l1"),
    "decoder.set_loss": choice("loss between generated and real images as sets", "energy", "drift"),
    "decoder.set_weight": parts.amount("weight of the loss between sets", 1.0),
    "decoder.set_anchors": parts.amount("weight of anchors in the loss between sets", 0.0),
    "decoder.set_patch_size": count("side of the patches in the loss between sets", 4),
    "decoder.set_patches": count("maximum number of patch positions in each update", 25),
}


def _check_resolutions(values: Mapping[str, Any], network: str) -> None:
    """Requires that patches divide the image and that each level halves the one before it."""
    side, patch = values["data.image_size"], values[f"{network}.patch_size"]
    require(
        side % patch == 0, f"{network}.patch_size must divide data.image_size {side}, got {patch}"
    )
    size, multipliers = side // patch, values[f"{network}.channel_multipliers"]
    most = (size & -size).bit_length()
    require(
        len(multipliers) <= most,
        f"{network}.channel_multipliers must have at most {most} entries, one for each halving of "
        f"the {size} patches of an image's side and one more, got {multipliers}",
    )
    widths = [size >> level for level in range(len(multipliers))]
    for name in (f"{network}.attention_resolutions", f"{network}.tap_resolutions"):
        resolutions = values.get(name) or ()
        require(
            set(resolutions) <= set(widths),
            f"{name} must contain only widths of {network} feature maps, "
            f"which are {', '.join(map(str, widths))}, got {resolutions}",
        )


def _check_ncsnpp_decoder(values: Mapping[str, Any]) -> None:
    _check_resolutions(values, "decoder")
    require(
        not values["decoder.scale_by_sigma"] or values["decoder.time_embedding"] == "fourier",
        "decoder.scale_by_sigma must be False unless decoder.time_embedding is 'fourier', got True",
    )


def _check_widths(values: Mapping[str, Any]) -> None:
    fields = {name: values[f"encoder.{name}"] for name in _RESNET}
    num_stages, widths = len(fields["stage_sizes"]), fields["stage_widths"]
    require(
        len(widths) == num_stages,
        f"encoder.stage_widths must have {num_stages} entries, one for each of "
        f"encoder.stage_sizes, got {widths}",
    )
    # The stem with selective kernels has layers of half its width.
    groups, halves = fields["norm_groups"], 2 if fields["selective_kernel_ratio"] > 0 else 1
    divisors = {"stem_width": groups * halves, "stage_widths": groups, "head_dim": groups}
    for name, divisor in divisors.items():
        got = fields[name]
        require(
            all(width % divisor == 0 for width in (got if isinstance(got, tuple) else (got,))),
            f"encoder.{name} must be a multiple of {divisor}, as encoder.norm_groups is "
            f"{groups}, got {got}",
        )
    dim, got = values["latent.dim"], fields["head_dim"]
    require(got == dim, f"encoder.head_dim must be latent.dim {dim}, got {got}")


def _check_one_pass(values: Mapping[str, Any]) -> None:
    for name in ("latent.enabled", "decoder.latents"):
        require(bool(values[name]), f"a one-pass decoder requires {name}, got {values[name]}")
    draws = values["training.flow_draws"]
    require(draws == 1, f"training.flow_draws must be 1: one-pass decoders draw none, got {draws}")
    name = "training.batch_size" if values["training.queries"] is None else "training.queries"
    require(values[name] >= 2, f"{name} must be >= 2 for a loss between sets, got {values[name]}")
    side, size = values["data.image_size"], values["decoder.set_patch_size"]
    require(size <= side, f"decoder.set_patch_size must be <= data.image_size {side}, got {size}")


def _check_direct(values: Mapping[str, Any]) -> None:
    _check_resolutions(values, "decoder")
    _check_one_pass(values)


_BY_FLOW = ("flow:FlowDecoder", _FLOW)
_MEAN_FLOW = {
    "sampling.sampler": choice("solver of the decoder's flow", "euler"),
    "sampling.num_steps": count("steps of the sampler", 1),
}
_BY_MEAN_FLOW = ("mean_flow:MeanFlowDecoder", _MEAN_FLOW)
_IN_ONE_PASS = ("one_pass:DirectDecoder", _ONE_PASS)
_ENCODERS: dict[str, tuple[str, Mapping[str, Field], Check | None]] = {
    "ncsnpp": (
        "ncsnpp:NCSNppEncoder",
        _NCSNPP_ENCODER,
        functools.partial(_check_resolutions, network="encoder"),
    ),
    "mlp": ("mlp:MLPEncoder", _MLP, None),
    "resnet": ("resnet:ResNet", _RESNET, _check_widths),
}
_DECODERS: dict[str, tuple[str, Mapping[str, Field], tuple[str, Any], Check | None]] = {
    "ncsnpp": ("ncsnpp:NCSNppDecoder", _NCSNPP_DECODER, _BY_FLOW, _check_ncsnpp_decoder),
    "mlp": ("mlp:MLPDecoder", _MLP, _BY_FLOW, None),
    "mean_ncsnpp": ("ncsnpp:NCSNppDecoder", _NCSNPP_DECODER, _BY_MEAN_FLOW, _check_ncsnpp_decoder),
    "mean_mlp": ("mlp:MLPDecoder", _MLP, _BY_MEAN_FLOW, None),
    "direct": ("ncsnpp:NCSNppGenerator", _GENERATOR, _IN_ONE_PASS, _check_direct),
    "direct_mlp": ("mlp:MLPGenerator", _MLP, _IN_ONE_PASS, _check_one_pass),
}

for name, (network, fields, check) in _ENCODERS.items():
    parts.add("encoder", name, f"lzn_jax.models.{network}", group("encoder", fields), check=check)
for name, (network, fields, (wrapper, more), check) in _DECODERS.items():
    part = f"lzn_jax.models.{network}", f"lzn_jax.decoders.{wrapper}"
    parts.add("decoder", name, part, group("decoder", fields) | more, check=check)
