"""The data types that ship, with their config fields, and the studies of the paper as presets."""

from collections.abc import Mapping
from typing import Any

from lzn_jax import parts
from lzn_jax.parts import (
    Field,
    amount,
    choice,
    count,
    count_or_0,
    counts,
    flag,
    group,
    positive,
    require,
    share,
    share_below_1,
    word,
    words,
)  # fmt: skip

_VIEWS = ("image:image",)  # alignment of two views of an image


def _latents(*types: str) -> Field:
    return words("types whose latents it learns from, in turn", types, part="type")


_GENERATIVE = {
    "latent.enabled": flag("False: the rectified-flow baseline without latents", True),
    "encoder.name": word("image encoder", part="encoder"),
    "decoder.name": word("image decoder", part="decoder"),
    "decoder.condition": word("type of its condition beside latents", None, part="type"),
    "decoder.condition_dropout": share_below_1("how often its condition is dropped", 0.0),
    "decoder.latents": _latents("image"),
    "latent.bank_size": count_or_0("recent anchors that cut zones beside a batch's own", 0),
    "training.queries": count(
        "samples of a batch whose latents are drawn, a divisor of batch_size; None = all", None
    ),
    "training.flow_draws": count("noises and times an image in the flow's loss", 1),
    "training.learning_rate.decoder": positive("the decoder's learning rate"),
    "evaluation.num_samples": count("images generated an evaluation"),
    "evaluation.inception_path": word(
        "file of FID's Inception weights, None = metrics without", None
    ),
    "evaluation.clip_path": word("file of CLIP's weights, None = metrics without CMMD", None),
}
_BESIDE_OTHERS = {
    "training.decoder_steps": count("updates after which the decoder stays, None = never", None),
    "training.generation_weight": amount("weight of the flow loss", 1.0),
}
_REPRESENTATION = {
    "latent.solver": word("solver of the encoder's flow", "euler", part="solver"),
    "objective": choice("'simclr' is the baseline", "lzn", "simclr"),
    "simclr.temperature": positive("temperature of the baseline's softmax", 0.1),
    "encoder.name": word("image encoder", choices=("resnet",), part="encoder"),
    "augmentation.min_area": positive("smallest crop, as a share of the image", 0.08, maximum=1),
    "augmentation.jitter_probability": share("how often colours are jittered", 0.8),
    "augmentation.brightness": amount("largest relative change", 0.8),
    "augmentation.contrast": amount("largest relative change", 0.8),
    "augmentation.saturation": amount("largest relative change", 0.8),
    "augmentation.hue": share("largest shift, as a share of the circle", 0.2, maximum=0.5),
    "augmentation.grey_probability": share("how often colours are dropped", 0.2),
    "augmentation.blur_probability": share("how often the image is blurred", 1.0),
    "augmentation.blur_kernel": count("pixels of the blur's kernel, odd", 23),
    "augmentation.blur_max_sigma": amount(
        "largest standard deviation of the blur in pixels", 2.0, minimum=0.1
    ),
    "evaluation.probe_protocol": choice(
        "training of the linear probe", "cached", "paper", "simclr"
    ),
}


def _image_fields(values: Mapping[str, Any]) -> dict[str, Field]:
    common = {
        "latent.context_size": count_or_0("context anchors, 0 = the batch itself"),
        "training.learning_rate.encoder": positive("the encoder's learning rate"),
    }
    if tuple(values["alignments"]) == _VIEWS:
        return common | _REPRESENTATION
    is_alone = len(values["types"]) == 1
    return common | _GENERATIVE | ({} if is_alone else _BESIDE_OTHERS)


def _check_image(values: Mapping[str, Any]) -> None:
    types, alignments = values["types"], values["alignments"]
    if not set(_VIEWS) & set(alignments):
        queries, size = values["training.queries"], values["training.microbatch_size"]
        batch_size = values["training.batch_size"]
        require(
            queries is None or batch_size % queries == 0,
            f"training.queries must divide training.batch_size {batch_size}, got {queries}",
        )
        require(
            None in (queries, size) or queries <= size or queries % size == 0,
            f"training.microbatch_size must divide training.queries {queries}, got {size}",
        )
        return
    require(
        types == ("image",) and alignments == _VIEWS,
        f"alignment image:image must be the only one of images alone, got {alignments} of {types}",
    )
    # The kernel has a centre, and its reflections stay inside the image.
    kernel, most = values["augmentation.blur_kernel"], 2 * values["data.image_size"] - 1
    require(
        kernel % 2 == 1 and kernel <= most,
        f"augmentation.blur_kernel must be odd and at most {most}, twice data.image_size less one, "
        f"got {kernel}",
    )


_LABEL = {
    "training.learning_rate.label_anchors": positive("the label anchors' learning rate"),
    "evaluation.noise_scales": Field(
        tuple,
        "α of the latents by which test images are classified",
        (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2),
        item=float,
        minimum=0,
    ),
    "evaluation.batch_sizes": counts("test images that are classified among themselves"),
    "evaluation.context_sizes": counts("context anchors to classify by; beyond the bank: left out"),
}


def _check_label(values: Mapping[str, Any]) -> None:
    """There are classes, and something trains: generation, alignment or both."""
    is_aligned = any("label" in pair.split(":") for pair in values["alignments"])
    require(
        is_aligned or not values.get("latent.enabled", True) or values["latent.context_size"] > 0,
        "latent.context_size must be > 0 where nothing is aligned with labels, got 0: zones of "
        "classes are those of their images",
    )
    require(
        values["data.num_classes"] >= 2,
        "data.num_classes must be an integer >= 2 in the joint study, got 1: a folder has a class "
        "for each of its class folders",
    )


_TRANSFORMER = {
    "features": count("width"),
    "num_layers": count("layers of attention", 1),
    "num_heads": count("heads of attention, a divisor of the width", 4),
    "dropout": share_below_1("dropout rate of the layers", 0.0),
}
_TEXT = {
    "objective": choice("'infonce' is the baseline of retrieval: no zones", "lzn", "infonce"),
    "infonce.temperature": positive("temperature of the baseline's softmax", 0.07),
    "data.tokenizer_path": word("file of Hugging Face's tokenizers, None = text.alphabet", None),
    "text.alphabet": word("characters of the texts, None = bytes of UTF-8", None),
    "text.max_length": count("tokens of the longest text, its end included", minimum=2),
    "text.context_size": count("known texts, whose anchors cut zones"),
    "training.learning_rate.text_encoder": positive("the text encoder's learning rate"),
    "training.learning_rate.text_decoder": positive("the text decoder's learning rate"),
    "training.text_weight": amount("weight of the text decoder's loss", 1.0),
    **group("text_encoder", _TRANSFORMER),
    **group("text_decoder", _TRANSFORMER),
    "text_decoder.latents": _latents("text", "image"),
    "text_decoder.noise_scale": amount("α of its latents, None = from 0 to 1 at random", None),
    "sampling.temperature": amount("of texts, 0 = the likeliest token after another", 0.0),
    "sampling.top_p": positive(
        "share of the probability that the tokens to draw from have", 1.0, maximum=1
    ),
}


def _check_text(values: Mapping[str, Any]) -> None:
    """There are texts and all that is measured of them; heads of attention share a width evenly."""
    require(values.get("data.captions", False), "data.captions must be True for texts, got False")
    require(values["latent.enabled"], "latent.enabled must be True with texts, got False")
    weights = values["training.generation_weight"], values["training.text_weight"]
    require(
        min(weights) > 0 or (max(weights) == 0 and values["alignment.weight"] > 0),
        "training.generation_weight and training.text_weight must both be > 0, or both 0 to train "
        f"zones alone by an alignment.weight > 0, got {weights[0]} and {weights[1]}",
    )
    require(
        values["data.tokenizer_path"] is None or values["text.alphabet"] is None,
        f"text.alphabet must be None with data.tokenizer_path, got {values['text.alphabet']!r}",
    )
    for name in ("decoder.latents", "text_decoder.latents"):
        require(bool(values[name]), f"{name} must name a type with texts, got ()")
    require(values["text.alphabet"] != "", "text.alphabet must be None or hold characters, got ''")
    for network in ("text_encoder", "text_decoder"):
        width, heads = values[f"{network}.features"], values[f"{network}.num_heads"]
        require(
            width % heads == 0,
            f"{network}.num_heads must divide {network}.features {width}, got {heads}",
        )


parts.add("type", "image", "lzn_jax.data_types.image:Image", _image_fields, check=_check_image)
parts.add("type", "label", "lzn_jax.data_types.label:Label", _LABEL, check=_check_label)
parts.add("type", "text", "lzn_jax.data_types.text:Text", _TEXT, check=_check_text)


def _study(
    name: str, types: tuple[str, ...], *alignments: str, **decoder: str | tuple[str, ...]
) -> None:
    conditions = {f"decoder.{field}": value for field, value in decoder.items()}
    parts.add("study", name, {"types": types, "alignments": alignments, **conditions})


_study("generation", ("image",))
_study("alone", ("image", "label"))  # nothing is aligned: labels name zones of images
_study("representation", ("image",), "image:image")
_study("joint", ("image", "label"), "image:label", condition="label")
_study(
    "pairs", ("image", "text"), "image:text", "text:image",
    condition="text", latents=("text", "image"),
)  # fmt: skip
_study(
    "text", ("image", "label", "text"), "image:text", "image:label", "text:label",
    condition="text", latents=("text", "image"),
)  # fmt: skip
