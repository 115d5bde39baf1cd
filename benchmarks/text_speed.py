"""How much faster texts are written with kept keys and values than by whole passes.

    python benchmarks/text_speed.py [--features 256] [--layers 4] [--batch 16] [--tokens 64]

The text decoder of configs/digits_text.py in that size, random weights, the likeliest token after
another: once as `translate` writes, a small step a token, and once with the network on the whole
text for each token. Prints the seconds of a batch by both, medians, and their ratio. Exit code 1 if
the texts differ. About a minute on one CPU core.
"""

import argparse
import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import shared

from lzn_jax import configuration
from lzn_jax.data_types.text import TextDecoder
from lzn_jax.models.transformer import END
from lzn_jax.tokenizers import tokenizer


def make_decoder(arguments: argparse.Namespace) -> TextDecoder:
    sizes = {
        "features": arguments.features,
        "num_layers": arguments.layers,
        "num_heads": max(1, arguments.features // 64),
    }
    overrides = [f"text_decoder.{name}={value}" for name, value in sizes.items()]
    overrides.append(f"text.max_length={arguments.tokens}")
    config = configuration.load("configs/digits_text.py", overrides)
    return TextDecoder(config, tokenizer(config))


def write_by_whole_passes(decoder: TextDecoder, variables, latents: jax.Array) -> jax.Array:
    def write(place, tokens):
        logits = decoder.module.apply(variables["text_decoder"], tokens, latents, train=False)
        is_over = (place > 0) & (tokens[:, place - 1] == END)
        token = jnp.where(is_over, END, jnp.argmax(logits[:, place], axis=1))
        return tokens.at[:, place].set(token)

    length = decoder.config.text.max_length
    return jax.lax.fori_loop(0, length, write, jnp.full((len(latents), length), END))


def main() -> int:
    parser = shared.parser(__doc__)
    for name, size in {"features": 256, "layers": 4, "batch": 16, "tokens": 64}.items():
        parser.add_argument(f"--{name}", type=int, default=size)
    arguments = parser.parse_args()
    decoder = make_decoder(arguments)
    latents = jax.random.normal(jax.random.key(0), (arguments.batch, decoder.config.latent.dim))
    variables = {"text_decoder": decoder.init(jax.random.key(1), (latents, None))}

    def write(variables, latents):
        index = jnp.arange(len(latents))
        return decoder.generate(variables, jax.random.key(2), (latents, None), index)["tokens"]

    ways = {
        "kept": jax.jit(write),
        "whole passes": jax.jit(functools.partial(write_by_whole_passes, decoder)),
    }
    tokens = {name: way(variables, latents) for name, way in ways.items()}
    calls = (functools.partial(way, variables, latents) for way in ways.values())
    taken = dict(zip(ways, np.median(shared.in_turns(*calls, repeats=5), axis=0), strict=True))
    is_same = bool(jnp.all(tokens["kept"] == tokens["whole passes"]))
    length = float(jnp.mean(jnp.sum(tokens["kept"] != END, axis=1)))
    print(f"{arguments.batch} texts of {arguments.tokens} tokens, {length:.1f} before the end")
    print("seconds:", shared.line(taken))
    print(f"{taken['whole passes'] / taken['kept']:.1f} times as fast", end=", ")
    print("same texts" if is_same else "other texts")
    return 0 if is_same else 1


if __name__ == "__main__":
    sys.exit(main())
