"""Registers images, labels and texts with their config fields, and the studies as presets."""

from collections.abc import Mapping
from typing import Any

from lzn_jax import parts
from lzn_jax.parts import (  # fmt: skip
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
)

_VIEWS = ("image:image",)  # alignment between two views of each image


def _latents(*types: str) -> Field:
    return words("types whose latents it is trained on, in turn", types, part="type")


_GENERATIVE = {
    "latent.enabled": flag("False = rectified flow without latents, the baseline", True),
    "encoder.name": word("image encoder", part="encoder"),
    "decoder.name": word("image decoder", part="decoder"),
    "decoder.condition": word("type of the condition beside latents", None, part="type"),
    "decoder.condition_dropout": share_below_1("probability that the condition is dropped", 0.0),
    "decoder.latents": _latents("image"),
    "training.queries": count(
        "samples of a batch that are decoded, a divisor of batch_size; None = all", None
    ),
    "training.flow_draws": count("draws of noise and time for each image in the flow loss", 1),
    "training.learning_rate.decoder": positive("learning rate of the decoder"),
    "evaluation.num_samples": count("images generated in each evaluation"),
    "evaluation.inception_path": word(
        "file of FID's Inception weights, None = no metrics that need it", None
    ),
    "evaluation.clip_path": word("file of CLIP's weights, None = no CMMD", None),
}
_WITH_OTHER_TYPES = {
    "training.decoder_steps": count("updates after which the decoder is fixed, None = never", None),
    "training.generation_weight": amount("weight of the image decoder's loss", 1.0),
}
_REPRESENTATION = {
    "latent.solver": word("solver of the encoder's flow", "euler", part="solver"),
    "objective": choice("training objective: 'lzn' or a baseline", "lzn", "simclr", "dcl"),
    "simclr.temperature": positive("temperature of the baseline's softmax", 0.1),
    "dcl.temperature": positive("temperature of the baseline's softmax", 0.1),
    "encoder.name": word("image encoder", choices=("resnet",), part="encoder"),
    "augmentation.min_area": positive("smallest crop, as a share of the image", 0.08, maximum=1),
    "augmentation.jitter_probability": share("probability of colour jitter", 0.8),
    "augmentation.brightness": amount("largest relative change", 0.8),
    "augmentation.contrast": amount("largest relative change", 0.8),
    "augmentation.saturation": amount("largest relative change", 0.8),
    "augmentation.hue": share("largest shift, as a share of the circle", 0.2, maximum=0.5),
    "augmentation.grey_probability": share("probability of conversion to grey", 0.2),
    "augmentation.blur_probability": share("probability of blur", 1.0),
    "augmentation.blur_kernel": count("width of the blur's kernel in pixels, odd", 23),
    "augmentation.blur_max_sigma": amount(
        "largest standard deviation of the blur in pixels", 2.0, minimum=0.1
    ),
    "evaluation.probe_protocol": choice(
        "training of the linear probe", "cached", "paper", "simclr"
    ),
}


def _image_fields(values: Mapping[str, Any]) -> dict[str, Field]:
    common = {
        "latent.context_size": count_or_0("number of context anchors, 0 = the batch cuts zones"),
        "training.learning_rate.encoder": positive("learning rate of the encoder"),
        "data.invert_input": flag(
            "invert images of --input and the page, None = grey ones whose background differs from "
            "that of the training images",
            None,
        ),
    }
    if tuple(values["alignments"]) == _VIEWS:
        return common | _REPRESENTATION
    is_alone = len(values["types"]) == 1
    return common | _GENERATIVE | ({} if is_alone else _WITH_OTHER_TYPES)


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
        "alignment image:image must be the only alignment and images the only type, got "
        f"{alignments} of {types}",
    )
    # The kernel must have a centre and its reflections must stay inside the image.
    kernel, most = values["augmentation.blur_kernel"], 2 * values["data.image_size"] - 1
    require(
        kernel % 2 == 1 and kernel <= most,
        f"augmentation.blur_kernel must be odd and at most {most}, 2 * data.image_size - 1, "
        f"got {kernel}",
    )


_LABEL = {
    "data.num_classes": count("number of classes"),
    "training.learning_rate.label_anchors": positive("learning rate of the label anchors"),
    "evaluation.noise_scales": Field(
        tuple,
        "α of the latents from which test images are classified",
        (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2),
        item=float,
        minimum=0,
    ),
    "evaluation.batch_sizes": counts(
        "sizes of batches of test samples that cut their own zones", ()
    ),
    "evaluation.context_sizes": counts(
        "numbers of context anchors for classification; larger ones than there are: left out", ()
    ),
}


def _check_label(values: Mapping[str, Any]) -> None:
    is_aligned = any("label" in pair.split(":") for pair in values["alignments"])
    require(
        is_aligned or "image" in values["types"],
        "alignments must name 'label' without images, for example 'TYPE:label', got "
        f"{values['alignments']}",
    )
    require(
        is_aligned or not values["latent.enabled"] or values["latent.context_size"] > 0,
        "latent.context_size must be > 0 if nothing is aligned with labels, got 0: the zones of a "
        "class are those of its context images",
    )
    require(
        values["data.num_classes"] >= 2,
        "data.num_classes must be an integer >= 2 with labels, got 1: an image folder has one "
        "class for each of its class folders",
    )


_TRANSFORMER = {
    "features": count("width"),
    "num_layers": count("attention layers", 1),
    "num_heads": count("attention heads, a divisor of the width", 4),
    "dropout": share_below_1("dropout rate of the layers", 0.0),
}
_TEXT = {
    "objective": choice(
        "training objective: 'lzn' or a retrieval baseline without zones",
        "lzn",
        "infonce",
        "siglip",
    ),
    "infonce.temperature": positive("temperature of the baseline's softmax", 0.07),
    "siglip.temperature": positive("temperature of the baseline's sigmoid", 0.1),
    "siglip.bias": Field(float, "bias of the baseline's sigmoid", -10.0),
    "data.tokenizer_path": word("file of Hugging Face's tokenizers, None = text.alphabet", None),
    "text.alphabet": word("characters of the texts, None = bytes of UTF-8", None),
    "text.max_length": count("tokens of the longest text, including its end", minimum=2),
    "text.context_size": count("number of context texts, the most frequent of the training set"),
    "training.learning_rate.text_encoder": positive("learning rate of the text encoder"),
    "training.learning_rate.text_decoder": positive("learning rate of the text decoder"),
    "training.text_weight": amount("weight of the text decoder's loss", 1.0),
    **group("text_encoder", _TRANSFORMER),
    **group("text_decoder", _TRANSFORMER),
    "text_decoder.noise_scale": amount("α of its latents, None = uniform in [0, 1]", None),
    "sampling.temperature": amount("temperature for texts, 0 = the most likely token", 0.0),
    "sampling.top_p": positive(
        "total probability of the most likely tokens, from which texts are drawn", 1.0, maximum=1
    ),
}


def _text_fields(values: Mapping[str, Any]) -> dict[str, Field]:
    others = [name for name in values["types"] if name not in ("text", "label")]
    return {**_TEXT, "text_decoder.latents": _latents("text", *others[:1])}


def _check_text(values: Mapping[str, Any]) -> None:
    require(values.get("data.captions", True), "data.captions must be True for texts, got False")
    require(values.get("latent.enabled", True), "latent.enabled must be True with texts, got False")
    image, text = values.get("training.generation_weight"), values["training.text_weight"]
    require(
        image is None or min(image, text) > 0 or (image == text == 0 < values["alignment.weight"]),
        "training.generation_weight and training.text_weight must both be > 0, or both 0 to train "
        f"by the alignment alone with alignment.weight > 0, got {image} and {text}",
    )
    require(
        values["data.tokenizer_path"] is None or values["text.alphabet"] is None,
        f"text.alphabet must be None with data.tokenizer_path, got {values['text.alphabet']!r}",
    )
    for name in ("decoder.latents", "text_decoder.latents"):
        require(values.get(name) != (), f"{name} must name a type with texts, got ()")
    require(values["text.alphabet"] != "", "text.alphabet must be None or non-empty, got ''")
    for network in ("text_encoder", "text_decoder"):
        width, heads = values[f"{network}.features"], values[f"{network}.num_heads"]
        require(
            width % heads == 0,
            f"{network}.num_heads must divide {network}.features {width}, got {heads}",
        )


parts.add("type", "image", "lzn_jax.data_types.image:Image", _image_fields, check=_check_image)
parts.add("type", "label", "lzn_jax.data_types.label:Label", _LABEL, check=_check_label)
parts.add("type", "text", "lzn_jax.data_types.text:Text", _text_fields, check=_check_text)


def _study(
    name: str, types: tuple[str, ...], *alignments: str, **decoder: str | tuple[str, ...]
) -> None:
    conditions = {f"decoder.{field}": value for field, value in decoder.items()}
    parts.add("study", name, {"types": types, "alignments": alignments, **conditions})


_study("generation", ("image",))
_study("alone", ("image", "label"))  # without alignment, a label is a set of zones of images
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
