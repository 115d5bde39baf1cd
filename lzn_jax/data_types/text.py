"""Texts: a transformer as encoder, and an autoregressive transformer as decoder."""

import dataclasses
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray
from ml_collections import ConfigDict

from lzn_jax import models, parts, zoning
from lzn_jax.data import Examples
from lzn_jax.data.pixels import MAX_NAMED
from lzn_jax.data_types import (
    Batch,
    Condition,
    Context,
    DataType,
    Keys,
    Loss,
    NetworkEncoder,
    trained_on,
)
from lzn_jax.data_types.protocols import Model, Samples
from lzn_jax.errors import UserError
from lzn_jax.models import Module, Tree, Variables, in_training, keys_by_index, transformer
from lzn_jax.models.transformer import END, is_text
from lzn_jax.parts import Field, amount, choice, count, knobs, loss_weight, positive, require, word
from lzn_jax.tokenizers import Tokenizer, tokenizer

NAME = "text"

_log = logging.getLogger(__name__)


class Text(DataType):
    """Texts as a list of strings."""

    measurements = ("texts",)

    def __init__(self, config: ConfigDict) -> None:
        length, self.condition_dim = config.text.max_length, config.latent.dim
        words = tokenizer(config.data.tokenizer_path, config.text.alphabet, length)
        sizes = {"max_length": length, "vocabulary": words.size, "latent_dim": config.latent.dim}
        encoder = models.module(transformer.Encoder, config.text_encoder, config, **sizes)
        decoder = models.module(transformer.Decoder, config.text_decoder, config, **sizes)
        own = {"tokenizer": words, "example": jnp.asarray(words.empty(1))}
        super().__init__(
            NAME,
            TextEncoder.from_config(NAME, config, encoder, **own),
            TextDecoder.from_config(config, decoder),
        )
        self.tokenizer = words

    def columns(self, examples: Examples) -> dict[str, np.ndarray]:
        """`tokens` (n, l), 0 for texts that cannot be tokenized and are therefore missing.

        Raises UserError if no text can be tokenized.
        """
        tokens = self._tokens(_texts(examples))
        if not tokens.any():
            raise UserError(
                "no text can be tokenized, see the log for reasons: change text.max_length, "
                "text.alphabet or data.tokenizer_path"
            )
        return {"tokens": tokens}

    def column_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        return {"tokens": jax.ShapeDtypeStruct((self.tokenizer.max_length,), np.int32)}

    def sample_format(self) -> dict[str, object]:
        """Range of tokens, and their vocabulary."""
        vocabulary = self.tokenizer.vocabulary
        return {
            "description": f"tokens: 0 ends and pads a text, {vocabulary['tokens']}",
            "range": [0, self.tokenizer.size - 1],
            "vocabulary": vocabulary,
        }

    def samples(self, examples: Examples) -> np.ndarray:
        return _texts(examples)

    def readable(self, examples: Examples) -> Int[np.ndarray, " k"]:
        return self.tokenizer.readable(_texts(examples))

    def check(self, examples: Examples, name: str) -> None:
        """Logs the texts that cannot be tokenized and are left out, and the lengths in tokens."""
        self._tokens(_texts(examples), f"{name} ")
        texts = [str(text) for text in _texts(examples) if text]
        lengths = sorted(n for n in self.tokenizer.lengths(texts) if n) or [0]
        _log.info(
            "%s: texts have %d to %d tokens, the median is %d",
            name, lengths[0], lengths[-1], lengths[len(lengths) // 2],
        )  # fmt: skip

    def checked(self, samples: Samples) -> list[str]:
        return list(super().checked(samples))

    def encoded(self, samples: Samples) -> Int[np.ndarray, "n l"]:
        return self.tokenizer.encode(samples)

    def decoded(self, outputs: Int[np.ndarray, "n l"]) -> list[str]:
        return self.tokenizer.decode(outputs)

    def parse(self, text: str) -> list[str]:
        """The text itself, or the non-empty lines of a .txt file."""
        if not text.endswith(".txt"):
            return [text]
        try:
            lines = Path(text).read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{text} cannot be read: {error}") from error
        if not (texts := [line.strip() for line in lines if line.strip()]):
            raise UserError(f"{text} contains no text")
        return texts

    def written(self, value: str) -> list[str]:
        return [value]

    def words(self, samples: Samples) -> list[str]:
        return [word for text in samples for word in re.findall(r"\w+", str(text))]

    def _tokens(self, texts: np.ndarray, split: str = "") -> Int[np.ndarray, "n l"]:
        """Tokens of texts, 0 for texts that cannot be tokenized, which are logged."""
        tokens, faults = self.tokenizer.encode_known(texts)
        left_out = [index for index in faults if texts[index]]
        reasons = {str(texts[index]): faults[index] for index in left_out}
        for text in list(reasons)[:MAX_NAMED]:
            _log.warning("left out: the %stext %r %s", split, text, reasons[text])
        if left_out:
            counts = len(reasons), len(left_out)
            _log.warning("%stexts left out: %d distinct, of %d examples", split, *counts)
        return tokens


def known(
    tokenizer: Tokenizer, size: int, texts: np.ndarray, seed: int
) -> tuple[Int[np.ndarray, "k l"], Float[np.ndarray, " k"]]:
    """Tokens and log counts of the `size` most frequent texts, padded with log counts of -inf.

    Texts that cannot be tokenized are left out. The seed breaks ties between counts.
    """
    names, counts = np.unique([str(text) for text in texts], return_counts=True)
    ties = np.random.default_rng(seed).permutation(len(names))
    tokens, log_weights = tokenizer.empty(size), np.full(size, -np.inf, np.float32)
    filled = 0
    for row in np.lexsort((ties, -counts)):  # stops early, since tokenizers of files are slow
        encoded, faults = tokenizer.encode_known(names[row : row + 1])
        if not faults:
            tokens[filled], log_weights[filled] = encoded[0], np.log(counts[row])
            filled += 1
        if filled == size:
            break
    return tokens, log_weights


def _texts(examples: Examples) -> np.ndarray:
    if examples.texts is None:
        raise UserError("the data set has no texts")
    return examples.texts


@dataclasses.dataclass(eq=False, kw_only=True)
class TextEncoder(NetworkEncoder):
    """Text encoder. Equal texts of a batch share an anchor.

    Its context is the most frequent training texts with their counts as weights.
    """

    tokenizer: Tokenizer
    column: str = "tokens"
    distinct: bool = True

    def is_present(self, inputs: Int[Array, "b l"]) -> Bool[Array, " b"]:
        return inputs[:, 0] != END

    def context_shapes(self) -> Context:
        count, length = self.context_size, self.example.shape[1]
        shapes: Tree = (
            jax.ShapeDtypeStruct((count, self.latent_dim), jnp.float32),
            jax.ShapeDtypeStruct((count,), jnp.float32),
            jax.ShapeDtypeStruct((count, length), jnp.int32),
        )
        return Context(*shapes)

    def context(self, anchors: Callable[..., Array], train: Examples) -> Context:
        """Anchors, log counts and tokens of the most frequent texts."""
        tokens, log_counts = known(self.tokenizer, self.context_size, _texts(train), self.seed)
        of_texts = anchors(tokens, description="anchors of texts")
        return Context(of_texts, jnp.asarray(log_counts), jnp.asarray(tokens))

    def encode(
        self, model: Model, tokens: Array, noise: Array, keys: Array, solver: zoning.Solver
    ) -> Float[Array, "b q"]:
        """Latents of texts among context anchors. A context text uses the zone of its anchor."""
        context, log_weights, known_tokens, _ = model.context[NAME]
        is_same = jnp.all(known_tokens == tokens[:, None], axis=2)
        kwargs: dict[str, Any] = {"solver": solver, "log_weights": log_weights}
        known = zoning.compute_latents(context, noise, jnp.argmax(is_same, axis=1), **kwargs)
        anchors = self.anchors(model.variables, tokens)
        new = zoning.latents_in_context(anchors, context, noise, **kwargs)
        return jnp.where(jnp.any(is_same, axis=1, keepdims=True), known, new)


@dataclasses.dataclass(eq=False)
class TextDecoder:
    """Text decoder, which generates a text token by token, given a latent."""

    network, output, num_draws = "text_decoder", "tokens", 1

    module: Module
    sources: tuple[str, ...]
    noise_scale: float | None
    microbatch_size: int | None
    temperature: float
    top_p: float
    condition: str | None = None

    @classmethod
    def from_config(cls, config: ConfigDict, module: Module) -> "TextDecoder":
        """The decoder with the numbers of a config."""
        setting, draws = config.text_decoder, config.sampling
        numbers = setting.sources, setting.noise_scale, config.training.microbatch_size
        return cls(module, *numbers, draws.temperature, draws.top_p)

    def init(self, key: PRNGKeyArray, condition: Condition) -> Tree:
        no_text = jnp.full((1, self.module.max_length), END, jnp.int32)
        return self.module.init(key, no_text, condition[0], train=False)

    def loss(self, variables: Variables, batch: Batch, condition: Condition, keys: Keys) -> Loss:
        """Cross-entropy per token, averaged over the tokens of all texts, including their ends."""
        tokens, (key,) = batch["tokens"], keys
        network = in_training(self.module, self.microbatch_size)
        logits = network(variables[self.network], key, tokens, condition[0])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens)
        counts = is_text(tokens) & (tokens[:, :1] != END)  # none for a missing text
        return jnp.sum(losses * counts) / jnp.maximum(jnp.sum(counts), 1)

    def generate(
        self, variables: Variables, key: PRNGKeyArray, condition: Condition, index: Int[Array, " b"]
    ) -> dict[str, Array]:
        """`tokens` (b, l), drawn, or the most likely token at each position at temperature 0.

        The draws of a text depend on the key and its `index`.
        """
        keys, (latents, _) = keys_by_index(key, "text_tokens", index), condition
        weights = variables[self.network]
        tokens = transformer.generate(
            self.module, weights, keys, latents, self.temperature, self.top_p
        )
        return {"tokens": tokens}


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
    **parts.learning_rates("text_encoder", "text_decoder"),
    "training.text_weight": loss_weight("weight of the text decoder's loss", 1.0),
    **knobs(transformer.Encoder, "text_encoder"),
    **knobs(transformer.Decoder, "text_decoder"),
    "text_decoder.noise_scale": amount("α of its latents, None = uniform in [0, 1]", None),
    "sampling.temperature": amount("temperature for texts, 0 = the most likely token", 0.0),
    "sampling.top_p": positive(
        "total probability of the most likely tokens, from which texts are drawn", 1.0, maximum=1
    ),
}


def _text_fields(values: Mapping[str, Any]) -> dict[str, Field]:
    others = [name for name in values["types"] if name not in ("text", "label")]
    return {**_TEXT, "text_decoder.sources": trained_on("text", *others[:1])}


def _check_text(values: Mapping[str, Any]) -> None:
    require(values.get("data.captions", True), "data.captions must be True for texts, got False")
    require(values.get("latent.enabled", True), "latent.enabled must be True with texts, got False")
    image, text = values.get("training.generation_weight"), values["training.text_weight"]
    require(
        image is None or min(image, text) > 0 or image == text == 0,
        "training.generation_weight and training.text_weight must both be > 0, or both 0 to train "
        f"by alignments alone, got {image} and {text}",
    )
    require(
        values["data.tokenizer_path"] is None or values["text.alphabet"] is None,
        f"text.alphabet must be None with data.tokenizer_path, got {values['text.alphabet']!r}",
    )
    require(values["text_decoder.sources"] != (), "text_decoder.sources must name a type, got ()")
    require(values["text.alphabet"] != "", "text.alphabet must be None or non-empty, got ''")
    for network in ("text_encoder", "text_decoder"):
        width, heads = values[f"{network}.features"], values[f"{network}.num_heads"]
        require(
            width % heads == 0,
            f"{network}.num_heads must divide {network}.features {width}, got {heads}",
        )


parts.add("type", "text", Text, _text_fields, check=_check_text)
