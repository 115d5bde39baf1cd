"""Registers a numeric property as a data type, with its config fields and measurement."""

from lzn_jax import parts

_PROPERTY = "lzn_jax.data_types.property"

parts.add(
    "type",
    "property",
    f"{_PROPERTY}:Property",
    {
        "property.column": parts.word("column of the data set"),
        "property.centre": parts.Field(float, "typical value", 0.0),
        "property.scale": parts.positive("typical deviation from property.centre", 1.0),
        "property.step": parts.positive("numbers that round to the same step share a zone", 0.01),
        "property.context_size": parts.count_or_0("number of context anchors, 0 = none"),
        "property.features": parts.count("units of each hidden layer", 64),
        "property.latents": parts.words(
            "types whose latents the decoder is trained on, in turn", ("property",), part="type"
        ),
        "training.property_weight": parts.amount("weight of the squared error", 1.0),
        "training.learning_rate.property_encoder": parts.positive("learning rate of the encoder"),
        "training.learning_rate.property_decoder": parts.positive("learning rate of the decoder"),
    },
)
parts.add("measurement", "property", f"{_PROPERTY}:measure")
