"""Generation by LZN alone, over seeds, and what moves it.

    python benchmarks/alone_evidence.py --seeds 3 --variants LZN
    python benchmarks/alone_evidence.py --config=configs/fashion_alone.py --seeds 3 --variants LZN
    python benchmarks/alone_evidence.py --seeds 1

`aligned` puts images into zones of their labels as well, `aligned_whole` their borders too; in
`told` the decoder is told the label beside the latent as well. `errors` learns from squared errors
alone, `perceptual` compares the anchors of images as well; the others change one field each.
"""

import evidence

ALIGNED = "--config.alignments=('image:label',)"
VARIANTS = {
    "LZN": [],
    "aligned": [ALIGNED],
    "aligned_whole": [ALIGNED, "--config.alignment.noise_scale=1"],
    "told": [ALIGNED, "--config.decoder.condition=label"],
    "errors": ["--config.decoder.energy_weight=0"],
    "half_energy": ["--config.decoder.energy_weight=1"],
    "double_energy": ["--config.decoder.energy_weight=4"],
    "few_zones": ["--config.training.batch_size=256"],
    "half_dim": ["--config.latent.dim=4"],
    "double_dim": ["--config.latent.dim=16"],
    "l1": ["--config.decoder.error=l1"],
    "perceptual": ["--config.decoder.energy_anchors=1"],
    "longer": ["--config.training.num_steps=3000"],
}
METRICS = (
    "fd_features",
    "precision",
    "recall",
    "recognised",
    "nearest_ratio",
    "sample_accuracy",
    "unconditional_sample_accuracy",
    "test_accuracy",
    "reconstruction_l2",
    "seconds",
)


def main() -> None:
    """Runs all variants and seeds, then prints the table."""
    arguments, flags = evidence.arguments_of(__doc__, "configs/digits_alone.py", VARIANTS, seeds=3)
    evidence.print_table(evidence.run_all(arguments, VARIANTS, flags), METRICS)


if __name__ == "__main__":
    main()
