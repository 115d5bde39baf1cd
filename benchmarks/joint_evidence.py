"""Joint LZN against its baselines and ablations: accuracy, samples, reconstruction, over seeds.

    python benchmarks/joint_evidence.py --seeds 3 --variants LZN RF
    python benchmarks/joint_evidence.py --config=configs/fashion_joint.py --seeds 1 --variants LZN

RF is the rectified flow without latents, `no_generation` the classifier alone; `alpha_1`
aligns random points of each zone, `alpha_0` its middle, where the configs take what lies between;
`paper` is alpha_1 with `prob`, `euler` all flows in its 20 steps. A run of the default config took
7 to 19 minutes on one CPU core.
"""

import evidence

VARIANTS = {
    "LZN": [],
    "RF": ["--config.latent.enabled=False"],
    "no_generation": ["--config.training.generation_weight=0.0"],
    "alpha_1": ["--config.alignment.noise_scale=1.0"],
    "alpha_0": ["--config.alignment.noise_scale=0.0"],
    "prob": ["--config.alignment.form=prob"],
    "paper": ["--config.alignment.noise_scale=1.0", "--config.alignment.form=prob"],
    "euler": [
        "--config.latent.solver=euler",
        "--config.latent.num_steps=20",
        "--config.alignment.solver=euler",
        "--config.alignment.num_steps=20",
        "--config.alignment.cutoff=0.2",
    ],
}
METRICS = (
    "test_accuracy",
    "test_accuracy_batch",
    "test_accuracy_alpha_1",
    "sample_accuracy",
    "unconditional_sample_accuracy",
    "reconstruction_l2",
    "fd_features",
    "precision",
    "recall",
    "steps_per_second",
    "seconds",
)


def main() -> None:
    """Runs all variants and seeds, then prints the table."""
    arguments, flags = evidence.arguments_of(__doc__, "configs/digits_joint.py", VARIANTS, seeds=3)
    evidence.print_table(evidence.run_all(arguments, VARIANTS, flags), METRICS)


if __name__ == "__main__":
    main()
