"""Model card of a shared model: the README.md that the Hugging Face Hub shows."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from lzn_jax import data
from lzn_jax.trained_model import TrainedModel

Metrics = Mapping[str, int | float | None]

_HEADER = """\
---
library_name: lzn_jax
tags:
- latent-zoning-network
- jax
---
"""


def text(
    model: TrainedModel,
    metrics: Metrics,
    pictures: Sequence[str],
    source: str,
    origin: Mapping[str, str] | None = None,
) -> str:
    """Model card in Markdown: use, data and licence, metrics, pictures.

    Args:
      model: the model.
      metrics: numbers of summary.json by name.
      pictures: files of pictures, relative to the card.
      source: argument of `lzn_jax.load`.
      origin: repository, revision and file of weights that were converted.
    """
    sections = [*_introduction(model, origin), *_use(model, source), *_data(model)]
    if metrics:
        rows = [f"| {name} | {_shown(value)} |" for name, value in metrics.items()]
        sections += ["## Metrics", "\n".join(["| metric | value |", "|---|---|", *rows])]
    if pictures:
        sections += ["## Pictures", *(f"![{Path(path).stem}]({path})" for path in pictures)]
    return "\n\n".join([_HEADER.rstrip(), *sections]) + "\n"


def _introduction(model: TrainedModel, origin: Mapping[str, str] | None) -> Iterator[str]:
    yield f"# Latent Zoning Network on {model.config.data.name}"
    types = ", ".join(model.space.types)
    paper = "[Latent Zoning Network](https://arxiv.org/abs/2509.15591)"
    yield f"{paper} in JAX after {model.step} updates. Data types: {types}."
    if model.translations:
        pairs = ", ".join(" to ".join(pair) for pair in model.translations)
        yield f"Translations: {pairs}."
    if origin is not None:
        yield (
            f"The weights were converted from {origin['file']} of "
            f"https://huggingface.co/{origin['repository']} (MIT licence), revision "
            f"{origin['revision']}."
        )


def _use(model: TrainedModel, source: str) -> Iterator[str]:
    extensions = tuple(model.config.extensions)
    arguments = f'"{source}"' + (f", extensions={extensions}" if extensions else "")
    yield "## Use"
    yield f"```python\nimport lzn_jax\n\nmodel = lzn_jax.load({arguments})\n```"
    if extensions:
        checksums = zip(extensions, model.config.extension_checksums, strict=True)
        named = ", ".join(f"`{name}` (sha256 {digest[:12]})" for name, digest in checksums)
        yield f"Extensions are code and not part of this repository: {named}."


def _data(model: TrainedModel) -> Iterator[str]:
    yield "## Data"
    licence = data.licence(model.config.data) or "Its source states the licence."
    yield f"Data set: `{model.config.data.name}`. {licence}"


def _shown(value: int | float | None) -> str:
    if value is None:
        return "not finite"
    return str(int(value)) if float(value).is_integer() else f"{value:.4g}"
