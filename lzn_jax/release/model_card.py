"""Model card of a shared model: the README.md that the Hugging Face Hub shows."""

from collections.abc import Collection, Iterator, Mapping

from lzn_jax import data
from lzn_jax.run import headlines
from lzn_jax.trained_model import TrainedModel

Metrics = Mapping[str, int | float | None]
SHOWN = 10  # metrics
# Figures of evaluation and their captions. Figures of other modes may show samples of the user.
PICTURES = {
    "figures/samples.png": "Samples of the model.",
    "figures/unconditional_samples.png": "Samples from the prior, by decoded class.",
    "figures/tasks.png": "Translations of test examples, and samples from the prior.",
    "figures/reconstructions.png": "Test images and their reconstructions.",
    "figures/retrieval.png": "Test examples and the examples of the other type nearest to them.",
    "figures/zones.png": "Latent zones of the test examples in two dimensions.",
    "figures/embedding.png": "Features of the test images in two dimensions.",
    "figures/classification.png": "Test accuracy by noise, batch size and number of anchors.",
    "figures/curves.png": "Metrics during training.",
}

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
    files: Collection[str],
    source: str,
    origin: Mapping[str, str] | None = None,
) -> str:
    """Model card in Markdown: use, data and licence, metrics, pictures.

    Args:
      model: the model.
      metrics: numbers of summary.json by name.
      files: files beside the card; it shows the `PICTURES` among them.
      source: argument of `lzn_jax.load`.
      origin: repository, revision and file of weights that were converted.
    """
    sections = [*_introduction(model, origin), *_use(model, source), *_data(model)]
    if metrics:
        names = headlines.most_important(metrics, SHOWN)
        rows = [f"| {name} | {_shown(metrics[name])} |" for name in names]
        table = "\n".join(["| metric | value |", "|---|---|", *rows])
        sections += [
            "## Metrics",
            table,
            f"{len(names)} of {len(metrics)} metrics in summary.json.",
        ]
    if pictures := [path for path in PICTURES if path in files]:
        shown = (f"{PICTURES[path]}\n\n![{PICTURES[path]}]({path})" for path in pictures)
        sections += ["## Pictures", *shown]
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
    licence = data.licence(model.config.data) or "Licence: unknown."
    yield f"Data set: `{model.config.data.name}`. {licence}"


def _shown(value: int | float | None) -> str:
    if value is None:
        return "not finite"
    return str(value) if isinstance(value, int) else f"{value:.4g}"
