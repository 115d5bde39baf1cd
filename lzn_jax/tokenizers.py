"""Tokenizers: texts as integers, where 0 marks the end of a text and pads it.

Any other token is 1 + its number in a vocabulary: characters of an alphabet, bytes, or a tokenizer
file of Hugging Face's `tokenizers`.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from lzn_jax.errors import UserError
from lzn_jax.models.transformer import END

_TEXTS_AT_A_TIME = 4096  # Hugging Face's encodings take much memory


@runtime_checkable
class Vocabulary(Protocol):
    """Conversion between texts and lists of numbers from 0 to `size` - 1."""

    size: int

    def unknown(self, text: str) -> set[str]:
        """Characters outside the vocabulary: here surrogates, which occur in broken texts."""
        return {character for character in text if "\ud800" <= character <= "\udfff"}

    def split(self, texts: Sequence[str]) -> Iterator[Sequence[int]]:
        """Numbers of each text; no text may have unknown characters."""

    def join(self, rows: list[list[int]]) -> list[str]:
        """Texts of lists of numbers."""

    def to_json(self) -> dict[str, Any]:
        """The vocabulary as JSON; `tokens` is the meaning of a token k > 0 in words."""


class Characters(Vocabulary):
    """The characters of an alphabet."""

    def __init__(self, alphabet: str) -> None:
        self.size, self._alphabet = len(alphabet), alphabet
        self._numbers = {character: i for i, character in enumerate(alphabet)}

    def unknown(self, text: str) -> set[str]:
        """Characters outside the alphabet."""
        return set(text) - self._numbers.keys()

    def split(self, texts: Sequence[str]) -> Iterator[Sequence[int]]:
        return ([self._numbers[character] for character in text] for text in texts)

    def join(self, rows: list[list[int]]) -> list[str]:
        return ["".join(self._alphabet[n] for n in row) for row in rows]

    def to_json(self) -> dict[str, Any]:
        return {"tokens": "k > 0 is characters[k - 1]", "characters": self._alphabet}


class Bytes(Vocabulary):
    """The bytes of UTF-8."""

    size = 256

    def split(self, texts: Sequence[str]) -> Iterator[Sequence[int]]:
        return (list(text.encode()) for text in texts)

    def join(self, rows: list[list[int]]) -> list[str]:
        """Texts of bytes; invalid UTF-8 becomes U+FFFD."""
        return [bytes(row).decode(errors="replace") for row in rows]

    def to_json(self) -> dict[str, Any]:
        return {"tokens": "k > 0 is the byte k - 1 of UTF-8"}


class File(Vocabulary):
    """A tokenizer.json file of Hugging Face's `tokenizers`, without added special tokens.

    The file defines the encoding of unknown characters.
    """

    def __init__(self, path: str) -> None:
        try:
            import tokenizers
        except ImportError as error:
            message = "data.tokenizer_path needs a package: pip install 'lzn_jax[text]'"
            raise UserError(message) from error
        try:
            self._tokens = tokenizers.Tokenizer.from_str(Path(path).read_text(encoding="utf-8"))
            self._tokens.encode("\uffff")  # fails if the token for unknown characters has no number
            self.size = 1 + max(self._tokens.get_vocab().values(), default=-1)
        except Exception as error:  # the package raises no narrower one
            reason = " ".join(str(error).split())
            raise UserError(
                f"data.tokenizer_path={path} must be a tokenizer.json of the package tokenizers: "
                f"{reason}"
            ) from error
        if self.size == 0:
            raise UserError(f"data.tokenizer_path={path} has no vocabulary: train the tokenizer")
        self._tokens.no_padding()
        self._tokens.no_truncation()

    def split(self, texts: Sequence[str]) -> Iterator[Sequence[int]]:
        for start in range(0, len(texts), _TEXTS_AT_A_TIME):
            batch = texts[start : start + _TEXTS_AT_A_TIME]
            for encoding in self._tokens.encode_batch_fast(batch, add_special_tokens=False):
                yield encoding.ids

    def join(self, rows: list[list[int]]) -> list[str]:
        """Texts of lists of numbers, including special tokens such as that for unknown ones."""
        return self._tokens.decode_batch(rows, skip_special_tokens=False)

    def to_json(self) -> dict[str, Any]:
        """The file's content as `tokenizer`."""
        tokens = "k > 0 is the id k - 1 of `tokenizer`, a tokenizer.json of the package tokenizers"
        return {"tokens": tokens, "tokenizer": json.loads(self._tokens.to_str())}


class Tokenizer:
    """Conversion between texts and rows of `max_length` tokens from 0 to `size` - 1."""

    def __init__(self, vocabulary: Vocabulary, max_length: int) -> None:
        self._vocabulary, self._max_length = vocabulary, max_length
        self.size = 1 + vocabulary.size

    def encode(self, texts: Sequence[str] | np.ndarray) -> Int[np.ndarray, "n l"]:
        """Tokens of texts; raises UserError for a text that cannot be encoded."""
        tokens, faults = self.encode_known(texts)
        for index, fault in faults.items():
            raise UserError(f"the text {str(texts[index])!r} {fault}")
        return tokens

    def encode_known(
        self, texts: Sequence[str] | np.ndarray
    ) -> tuple[Int[np.ndarray, "n l"], dict[int, str]]:
        """Tokens of texts, 0 for texts that cannot be encoded, and the latter's faults by index."""
        texts, faults = [str(text) for text in texts], {}
        tokens = self.empty(len(texts))
        for index, numbers in enumerate(self._split(texts)):
            if fault := self._fault(texts[index], len(numbers)):
                faults[index] = fault
            else:
                tokens[index, : len(numbers)] = 1 + np.array(numbers)
        return tokens, faults

    def empty(self, count: int) -> Int[np.ndarray, "count l"]:
        """Tokens of `count` missing texts."""
        return np.full((count, self._max_length), END, np.int32)

    def readable(self, texts: Sequence[str] | np.ndarray) -> Int[np.ndarray, " k"]:
        """Indices of the texts that can be encoded."""
        return np.setdiff1d(np.arange(len(texts)), list(self.encode_known(texts)[1]))

    def canonical(self, texts: Sequence[str] | np.ndarray) -> list[str]:
        """Texts after encoding and decoding: a tokenizer file may change case or spaces.

        A text that cannot be encoded is unchanged.
        """
        tokens, faults = self.encode_known(texts)
        decoded = self.decode(tokens)
        return [str(texts[i]) if i in faults else decoded[i] for i in range(len(texts))]

    def vocabulary_json(self) -> dict[str, Any]:
        """The vocabulary as JSON; `tokens` is the meaning of a token k > 0 in words."""
        return self._vocabulary.to_json()

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Numbers of tokens of texts, not limited to `max_length`; 0 with unknown characters."""
        return [len(numbers) for numbers in self._split(texts)]

    def decode(self, tokens: Int[np.ndarray, "n l"]) -> list[str]:
        """Texts of tokens, up to the first end token."""
        is_text = np.cumsum(np.asarray(tokens) == END, axis=1) == 0
        rows = [(row[mask] - 1).tolist() for row, mask in zip(tokens, is_text, strict=True)]
        return self._vocabulary.join(rows)

    def _split(self, texts: Sequence[str]) -> Iterator[Sequence[int]]:
        """Numbers of texts, empty for a text with unknown characters."""
        unknown = self._vocabulary.unknown
        return self._vocabulary.split(["" if unknown(text) else text for text in texts])

    def _fault(self, text: str, count: int) -> str | None:
        if not text:
            return "is empty"
        if unknown := self._vocabulary.unknown(text):
            return f"has characters outside the run's vocabulary: {', '.join(sorted(unknown))}"
        if count == 0:
            return "has no tokens in the run's vocabulary"
        if count >= self._max_length:
            return f"is longer than the run's {self._max_length - 1} tokens"
        return None


def tokenizer(config: ConfigDict) -> Tokenizer:
    """The tokenizer of a config; raises UserError for a file that is not a tokenizer."""
    path, alphabet = config.data.tokenizer_path, config.text.alphabet
    vocabulary: Vocabulary = Bytes() if alphabet is None else Characters(alphabet)
    if path is not None:
        vocabulary = File(path)
    return Tokenizer(vocabulary, config.text.max_length)
