"""Texts: a transformer gives their anchors, another writes them, given latents."""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray
from ml_collections import ConfigDict

from lzn_jax import models, zoning
from lzn_jax.configuration import UserError
from lzn_jax.data import Examples
from lzn_jax.data.examples import MAX_NAMED
from lzn_jax.data_types import Condition, DataType, NetworkEncoder
from lzn_jax.microbatches import in_training
from lzn_jax.models import Variables, transformer
from lzn_jax.models.transformer import END
from lzn_jax.randomness import keys_by_index
from lzn_jax.tokenizers import Tokenizer, tokenizer

NAME = "text"

_log = logging.getLogger(__name__)


class Text(DataType):
    """Texts, strings."""

    measurements = ("texts",)

    def __init__(self, config: ConfigDict) -> None:
        self._config, self.tokenizer = config, tokenizer(config)
        super().__init__(
            NAME,
            TextEncoder(config, self.tokenizer),
            TextDecoder(config, self.tokenizer),
        )
        self.weight, self.condition_dim = config.training.text_weight, config.latent.dim

    def columns(self, examples: Examples) -> dict[str, np.ndarray]:
        """`tokens` of the texts; examples without a readable text train without one.

        Raises UserError where no text can be read.
        """
        texts = _texts(examples)
        tokens = self._read(texts)
        if any(texts) and not tokens.any():
            raise UserError(
                "no text can be read, the log says why: change text.max_length, text.alphabet or "
                "data.tokenizer_path"
            )
        return {"tokens": tokens}

    def column_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Of the tokens of a text."""
        return {"tokens": jax.ShapeDtypeStruct((self._config.text.max_length,), np.int32)}

    def samples(self, examples: Examples) -> np.ndarray:
        """The texts."""
        return _texts(examples)

    def readable(self, examples: Examples) -> Int[np.ndarray, " k"]:
        """Rows with a text that has tokens."""
        return self.tokenizer.readable(_texts(examples))

    def check(self, examples: Examples, name: str) -> None:
        """Logs the texts of a set that are left out."""
        self._read(_texts(examples), f"{name} ")

    def describe(self, examples: Examples, name: str) -> None:
        """Logs lengths in tokens, and the texts without any."""
        super().describe(examples, name)
        written = [str(text) for text in _texts(examples) if text]
        lengths = sorted(n for n in self.tokenizer.lengths(written) if n) or [0]
        _log.info(
            "%s: texts have %d to %d tokens, the median is %d",
            name, lengths[0], lengths[-1], lengths[len(lengths) // 2],
        )  # fmt: skip

    def checked(self, samples: Any) -> list[str]:
        """Texts as a list."""
        if isinstance(samples, str):
            raise UserError(f"texts must be a list of strings, got the string {samples!r}")
        return list(super().checked(samples))

    def encoded(self, samples: Any) -> Int[np.ndarray, "n l"]:
        """Tokens; raises UserError for a text that has none."""
        return self.tokenizer.encode(samples)

    def decoded(self, outputs: Int[np.ndarray, "n l"]) -> list[str]:
        """Texts of tokens."""
        return self.tokenizer.decode(outputs)

    def parse(self, text: str) -> list[str]:
        """A text, or the lines of a .txt file."""
        if not text.endswith(".txt"):
            return [text]
        try:
            lines = Path(text).read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{text} cannot be read: {error}") from error
        if not (texts := [line.strip() for line in lines if line.strip()]):
            raise UserError(f"{text} holds no text")
        return texts

    def written(self, text: str) -> list[str]:
        """A text."""
        return [text]

    def words(self, samples: Any) -> list[str]:
        """Words without punctuation."""
        return [word for text in samples for word in re.findall(r"\w+", str(text))]

    def _read(self, texts: np.ndarray, of: str = "") -> Int[np.ndarray, "n l"]:
        """Tokens, 0 for texts without any; the log counts and names those of a set."""
        tokens, faults = self.tokenizer.encode_known(texts)
        left_out = [index for index in faults if texts[index]]
        different = {str(texts[index]): faults[index] for index in left_out}
        for text in list(different)[:MAX_NAMED]:
            _log.warning("left out: the %stext %r %s", of, text, different[text])
        if left_out:
            count = len(left_out)
            _log.warning(
                "%stexts left out: %d different ones, of %d examples", of, len(different), count
            )
        return tokens


def known(
    tokenizer: Tokenizer, size: int, texts: np.ndarray, seed: int
) -> tuple[Int[np.ndarray, "k l"], Float[np.ndarray, " k"]]:
    """Tokens and log counts of the `size` most frequent texts; -inf pads where there are fewer.

    Texts without tokens are left out. Among texts of the same count the seed chooses.
    """
    names, counts = np.unique([str(text) for text in texts], return_counts=True)
    ties = np.random.default_rng(seed).permutation(len(names))
    order = np.lexsort((ties, -counts))
    tokens, log_weights = tokenizer.empty(size), np.full(size, -np.inf, np.float32)
    filled = 0
    for start in range(0, len(order), size):  # a file's tokenizer is slow: no more than needed
        rows = order[start : start + size]
        found, faults = tokenizer.encode_known(names[rows])
        kept = np.setdiff1d(np.arange(len(rows)), list(faults))[: size - filled]
        places = slice(filled, filled + len(kept))
        tokens[places], log_weights[places] = found[kept], np.log(counts[rows[kept]])
        filled += len(kept)
        if filled == size:
            break
    return tokens, log_weights


def _texts(examples: Examples) -> np.ndarray:
    if examples.texts is None:
        raise UserError("the data set has no texts")
    return examples.texts


class TextEncoder(NetworkEncoder):
    """The text encoder of a config: equal texts of a batch share an anchor."""

    def __init__(self, config: ConfigDict, tokenizer: Tokenizer) -> None:
        super().__init__(
            NAME,
            _network(transformer.Encoder, config, config.text_encoder, tokenizer),
            column="tokens",
            samples=_texts,
            example=_no_text(config),
            latent_dim=config.latent.dim,
            context_size=config.text.context_size,
            seed=config.seed,
            microbatch_size=config.training.microbatch_size,
            distinct=True,
        )
        self.config, self.tokenizer = config, tokenizer

    def is_present(self, inputs: Int[Array, "b l"]) -> Bool[Array, " b"]:
        """Which texts have tokens."""
        return inputs[:, 0] != END

    def context_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Of the known texts."""
        count, length = self.config.text.context_size, self.config.text.max_length
        return {
            "text_anchors": jax.ShapeDtypeStruct((count, self.config.latent.dim), jnp.float32),
            "text_log_weights": jax.ShapeDtypeStruct((count,), jnp.float32),
            "text_tokens": jax.ShapeDtypeStruct((count, length), jnp.int32),
        }

    def context(self, anchors: Callable[..., Any], train: Examples) -> dict[str, Any]:
        """The known texts: anchors, log counts and tokens."""
        setting = self.config
        tokens, log_weights = known(
            self.tokenizer, setting.text.context_size, _texts(train), setting.seed
        )
        found = anchors(tokens, description="anchors of texts")
        return {"text_anchors": found, "text_log_weights": log_weights, "text_tokens": tokens}

    def latents(
        self,
        model: Any,
        tokens: Int[Array, "b l"],
        noise: Array,
        keys: Key[Array, " b"],
        solver: zoning.Solver,
    ) -> Float[Array, "b q"]:
        """Latents of texts among the known ones; one that is known is itself among them."""
        del keys
        bank, log_weights = model.context["text_anchors"], model.context["text_log_weights"]
        is_same = jnp.all(model.context["text_tokens"] == tokens[:, None], axis=2)
        kwargs: dict[str, Any] = {"solver": solver, "log_weights": log_weights}
        known = zoning.compute_latents(bank, noise, jnp.argmax(is_same, axis=1), **kwargs)
        queries = self.anchors(model.variables, tokens)
        new = zoning.latents_in_context(queries, bank, noise, **kwargs)
        return jnp.where(jnp.any(is_same, axis=1, keepdims=True), known, new)


class TextDecoder:
    """The text decoder of a config: writes a text token by token, given a latent."""

    network, output = "text_decoder", "tokens"
    num_draws = 1

    condition: str | None = None

    def __init__(self, config: ConfigDict, tokenizer: Tokenizer) -> None:
        self.config = config
        self.module = _network(transformer.Decoder, config, config.text_decoder, tokenizer)
        self.sources: tuple[str, ...] = config.text_decoder.latents
        self.noise_scale: float | None = config.text_decoder.noise_scale
        self.temperature: float = config.sampling.temperature
        self.top_p: float = config.sampling.top_p

    def init(self, key: PRNGKeyArray, condition: Condition) -> Any:
        """Fresh variables."""
        return self.module.init(key, _no_text(self.config), condition[0], train=False)

    def loss(
        self,
        variables: Variables,
        batch: Mapping[str, Array],
        condition: Condition,
        keys: Sequence[PRNGKeyArray],
    ) -> Float[Array, ""]:
        """Cross-entropy of a token, mean over those of all texts, their ends included."""
        tokens, (key,) = batch["tokens"], keys
        network = in_training(self.module, self.config.training.microbatch_size)
        logits = network(variables[self.network], key, tokens, condition[0])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens)
        counts = _counts(tokens)
        return jnp.sum(losses * counts) / jnp.maximum(jnp.sum(counts), 1)

    def generate(
        self,
        variables: Variables,
        key: PRNGKeyArray,
        condition: Condition,
        index: Int[Array, " b"],
    ) -> dict[str, Array]:
        """`tokens` of the given numbers: the likeliest one after another, or drawn."""
        latents, _ = condition
        keys = keys_by_index(key, "text_tokens", index)
        start = jnp.full(len(index), END, jnp.int32)

        def write(written: tuple[Array, Any], place: Array) -> tuple[tuple[Array, Any], Array]:
            before, cache = written
            arguments = before[:, None], place[None], latents
            logits, cache = self._after(variables, cache, *arguments)
            is_over = (place > 0) & (before == END)
            token = jnp.where(is_over, END, self._choose(logits[:, 0], keys, place))
            return (token, cache), token

        places = jnp.arange(self.config.text.max_length)
        room = self._room(variables, jnp.tile(start[:, None], len(places)), places, latents)
        _, tokens = jax.lax.scan(write, (start, room), places)
        return {"tokens": tokens.T}

    def _after(self, variables: Variables, cache: Any, *arguments: Any) -> tuple[Any, Any]:
        """Logits, and the keys and values that are kept for the next place."""
        own, method = {**variables[self.network], **cache}, "after"
        return self.module.apply(own, *arguments, keeps=True, method=method, mutable=["cache"])

    def _room(self, variables: Variables, *arguments: Any) -> Any:
        """Room for the keys and values of all places."""
        shapes = jax.eval_shape(lambda: self._after(variables, {}, *arguments)[1])
        return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)

    def _choose(
        self, logits: Float[Array, "b v"], keys: Key[Array, " b"], place: Array
    ) -> Int[Array, " b"]:
        """The likeliest token of each text, or one drawn with the text's own noise."""
        if self.temperature > 0:
            place_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, place)
            noise = jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:]))(place_keys)
            logits = likeliest(logits / self.temperature, self.top_p) + noise
        return jnp.argmax(logits, axis=1).astype(jnp.int32)


def likeliest(logits: Float[Array, "b v"], share: float) -> Float[Array, "b v"]:
    """Logits of the fewest tokens that together have a share of the probability, else -inf."""
    if share == 1:  # without sorting
        return logits
    descending = jnp.sort(logits, axis=1, descending=True)
    p = jax.nn.softmax(descending, axis=1)
    is_in = jnp.cumsum(p, axis=1) - p < share  # the first one always
    least = jnp.min(descending, axis=1, keepdims=True, initial=jnp.inf, where=is_in)
    return jnp.where(logits >= least, logits, -jnp.inf)


def _network(
    part: type[nn.Module], config: ConfigDict, group: ConfigDict, tokenizer: Tokenizer
) -> Any:
    given = {"max_length": config.text.max_length, "vocabulary": tokenizer.size}
    return models.module(part, group, config, latent_dim=config.latent.dim, **given)


def _no_text(config: ConfigDict) -> Int[Array, "1 l"]:
    return jnp.full((1, config.text.max_length), END, jnp.int32)


def _counts(tokens: Int[Array, "b l"]) -> Bool[Array, "b l"]:
    """Which tokens count: those of texts and the first end; of a text that is missing none."""
    ends = jnp.cumsum(tokens == END, axis=1) - (tokens == END)
    return (ends == 0) & (tokens[:, :1] != END)
