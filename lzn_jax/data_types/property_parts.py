"""A numeric property as a data type: its config fields and its measurement."""

from lzn_jax import parts

_PROPERTY = "lzn_jax.data_types.property"

parts.add(
    "type",
    "property",
    f"{_PROPERTY}:Property",
    {
        "property.column": parts.word("column of the data set that holds it"),
        "property.centre": parts.Field(float, "a typical value", 0.0),
        "property.scale": parts.positive("a typical deviation from it", 1.0),
        "property.step": parts.positive("numbers share a zone if they round to one multiple", 0.01),
        "property.context_size": parts.count_or_0("context anchors, 0 = the samples at hand"),
        "property.features": parts.count("units of each hidden layer", 64),
        "property.latents": parts.words(
            "types whose latents the decoder learns from, in turn", ("property",), part="type"
        ),
        "training.property_weight": parts.amount("weight of the squared error", 1.0),
        "training.learning_rate.property_encoder": parts.positive("the encoder's learning rate"),
        "training.learning_rate.property_decoder": parts.positive("the decoder's learning rate"),
    },
)
parts.add("measurement", "property", f"{_PROPERTY}:measure")
