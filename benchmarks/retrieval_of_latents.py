"""Retrieval by anchors and by latents of the same runs: is it the zones or the training?

    python benchmarks/retrieval_of_latents.py results/emoji_text_evidence/InfoNCE_seed*
    python benchmarks/retrieval_of_latents.py RUN --language tr

Latents are middles of zones among the test set's own anchors, as in the metrics of runs by zones.
Emoji may be asked for in one of the languages of a run, so that each image is there once.
"""

import argparse
from pathlib import Path

import evidence
from ml_collections import ConfigDict

import lzn_jax
from lzn_jax import data
from lzn_jax.evaluation.retrieval import recalls
from lzn_jax.trained_model import TrainedModel


def measure(model: TrainedModel, language: str | None) -> dict[str, evidence.Summary]:
    """Recalls both ways, of anchors and of latents; language None is all of the run's."""
    config = ConfigDict(model.config.data)
    if language:
        config.languages = (language,)
    test = data.load(config, "test")
    assert test.texts is not None
    rows = model.space.types["text"].readable(test)
    texts = test.texts[rows]
    anchors = {
        "image": model.anchors(test.images[rows]),
        "text": model.anchors(list(texts), source="text"),
    }
    latents = {
        source: model.latents(each, 0.0, source=source, among=each[:0])
        for source, each in anchors.items()
    }
    return {
        what: {
            f"retrieval_{source}_to_{target}_r{k}": share
            for source, target in (("image", "text"), ("text", "image"))
            for k, share in recalls(sides[source], sides[target], texts).items()
        }
        for what, sides in (("anchors", anchors), ("latents", latents))
    }


def main() -> None:
    """Measures all runs, prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, help="work folders")
    parser.add_argument("--language", help="of the names of emoji")
    arguments = parser.parse_args()
    results: evidence.Results = {}
    for workdir in arguments.runs:
        for name, summary in measure(lzn_jax.load(workdir), arguments.language).items():
            results.setdefault(name, []).append(summary)
    evidence.print_table(results, results["anchors"][0])


if __name__ == "__main__":
    main()
