"""Tokenizers: texts as integers, where 0 marks the end of a text and pads it.

Any other token is 1 + its number in a vocabulary. The vocabulary consists of characters of an
alphabet, of bytes, or of a tokenizer file of Hugging Face's `tokenizers`.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from lzn_jax.errors import UserError, explained, package
from lzn_jax.models.transformer import END

_TEXTS_AT_A_TIME = 4096  # limited, since Hugging Face's encodings need much memory


def _surrogates(text: str) -> set[str]:
    """Characters of a broken text that UTF-8 cannot encode."""
    return {character for character in text if "\ud800" <= character <= "\udfff"}


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Conversion between texts and rows of `max_length` tokens from 0 to `size` - 1.

    Attributes:
      split: numbers of each text, which may contain no unknown characters.
      join: texts of lists of numbers.
      unknown: characters of a text outside the vocabulary.
      vocabulary: JSON for other programs. `tokens` is the meaning of a token k > 0 in words.
    """

    max_length: int
    size: int
    split: Callable[[list[str]], Iterable[Sequence[int]]]
    join: Callable[[list[list[int]]], list[str]]
    vocabulary: dict[str, object]
    unknown: Callable[[str], set[str]] = _surrogates

    def encode(self, texts: Sequence[str] | np.ndarray) -> Int[np.ndarray, "n l"]:
        """Tokens of texts. Raises UserError for a text that cannot be encoded."""
        tokens, faults = self.encode_known(texts)
        for index, fault in faults.items():
            raise UserError(f"the text {str(texts[index])!r} {fault}")
        return tokens

    def encode_known(
        self, texts: Sequence[str] | np.ndarray
    ) -> tuple[Int[np.ndarray, "n l"], dict[int, str]]:
        """Tokens of texts, and faults by index. A text that cannot be encoded gets tokens 0."""
        texts, faults = [str(text) for text in texts], {}
        tokens = self.empty(len(texts))
        for index, numbers in enumerate(self._split_known(texts)):
            if fault := self._fault(texts[index], len(numbers)):
                faults[index] = fault
            else:
                tokens[index, : len(numbers)] = 1 + np.array(numbers)
        return tokens, faults

    def empty(self, count: int) -> Int[np.ndarray, "count l"]:
        """Tokens of `count` missing texts."""
        return np.full((count, self.max_length), END, np.int32)

    def readable(self, texts: Sequence[str] | np.ndarray) -> Int[np.ndarray, " k"]:
        """Indices of the texts that can be encoded."""
        return np.setdiff1d(np.arange(len(texts)), list(self.encode_known(texts)[1]))

    def canonical(self, texts: Sequence[str] | np.ndarray) -> list[str]:
        """Texts after encoding and decoding, since a tokenizer file may change case or spaces.

        A text that cannot be encoded is unchanged.
        """
        tokens, faults = self.encode_known(texts)
        decoded = self.decode(tokens)
        return [str(texts[i]) if i in faults else decoded[i] for i in range(len(texts))]

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Token counts of texts, not limited to `max_length`. Unknown characters give 0."""
        return [len(numbers) for numbers in self._split_known(texts)]

    def decode(self, tokens: Int[np.ndarray, "n l"]) -> list[str]:
        """Texts of tokens, up to the first end token."""
        is_text = np.cumsum(np.asarray(tokens) == END, axis=1) == 0
        rows = [(row[mask] - 1).tolist() for row, mask in zip(tokens, is_text, strict=True)]
        return self.join(rows)

    def _split_known(self, texts: Sequence[str]) -> Iterable[Sequence[int]]:
        return self.split(["" if self.unknown(text) else text for text in texts])

    def _fault(self, text: str, count: int) -> str | None:
        if not text:
            return "is empty"
        if unknown := self.unknown(text):
            return f"has characters outside the run's vocabulary: {', '.join(sorted(unknown))}"
        if count == 0:
            return "has no tokens in the run's vocabulary"
        if count >= self.max_length:
            return f"is longer than the run's {self.max_length - 1} tokens"
        return None


def tokenizer(path: str | None, alphabet: str | None, max_length: int) -> Tokenizer:
    """Tokenizer of a file, else of an alphabet, else of bytes; raises UserError as `of_file`."""
    if path is not None:
        return of_file(path, max_length)
    if alphabet is not None:
        return of_characters(alphabet, max_length)
    return of_bytes(max_length)


def of_characters(alphabet: str, max_length: int) -> Tokenizer:
    """Tokenizer whose tokens are the characters of an alphabet."""
    numbers = {character: i for i, character in enumerate(alphabet)}
    return Tokenizer(
        max_length,
        1 + len(alphabet),
        split=lambda texts: ([numbers[character] for character in text] for text in texts),
        join=lambda rows: ["".join(alphabet[n] for n in row) for row in rows],
        vocabulary={"tokens": "k > 0 is characters[k - 1]", "characters": alphabet},
        unknown=lambda text: set(text) - numbers.keys(),
    )


def of_bytes(max_length: int) -> Tokenizer:
    """Tokenizer whose tokens are the bytes of UTF-8. Invalid UTF-8 is decoded to U+FFFD."""
    return Tokenizer(
        max_length,
        1 + 256,
        split=lambda texts: (list(text.encode()) for text in texts),
        join=lambda rows: [bytes(row).decode(errors="replace") for row in rows],
        vocabulary={"tokens": "k > 0 is the byte k - 1 of UTF-8"},
    )


def of_file(path: str, max_length: int) -> Tokenizer:
    """Tokenizer of a tokenizer.json file of Hugging Face, without added special tokens.

    The file defines the encoding of unknown characters. Raises UserError for a file that is not a
    tokenizer.
    """
    tokenizers = package("tokenizers", "'lzn_jax[text]'")
    failure = f"data.tokenizer_path={path} cannot be read"
    with explained(failure, "name a tokenizer.json of the package tokenizers"):
        tokens = tokenizers.Tokenizer.from_str(Path(path).read_text(encoding="utf-8"))
        tokens.encode("\uffff")  # fails if the token for unknown characters is not numbered
        if not tokens.get_vocab():
            raise ValueError("it has no vocabulary")
        size = 2 + max(tokens.get_vocab().values())  # numbers may be left out
    tokens.no_padding()
    tokens.no_truncation()

    def split(texts: list[str]) -> Iterator[Sequence[int]]:
        for start in range(0, len(texts), _TEXTS_AT_A_TIME):
            batch = texts[start : start + _TEXTS_AT_A_TIME]
            for encoding in tokens.encode_batch_fast(batch, add_special_tokens=False):
                yield encoding.ids

    meaning = "k > 0 is the id k - 1 of `tokenizer`, a tokenizer.json of the package tokenizers"
    return Tokenizer(
        max_length,
        size,
        split=split,
        join=functools.partial(tokens.decode_batch, skip_special_tokens=False),
        vocabulary={"tokens": meaning, "tokenizer": json.loads(tokens.to_str())},
    )
