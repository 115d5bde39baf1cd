"""Images, labels and text in one space: every task of the paper's figure 1, over seeds.

    python benchmarks/text_evidence.py --seeds 3 --variants LZN

`adams` aligns by Adams-Bashforth, as the config without text does. A run takes 15 to 17 minutes on
one CPU core.
"""

import evidence

VARIANTS = {
    "LZN": [],
    "adams": ["--config.alignment.solver=adams", "--config.alignment.cutoff=0.6"],
}
METRICS = (
    "image_to_label_accuracy",
    "image_to_text_exact",
    "image_to_text_digit",
    "text_to_label_accuracy",
    "text_to_image_exact",
    "text_to_image_digit",
    "sample_accuracy",
    "label_to_text_digit",
    "unconditional_sample_accuracy",
    "prior_image_exact",
    "text_well_formed",
    "text_total_variation",
    "text_probe_digit",
    "text_probe_weight",
    "text_probe_lean",
    "real_image_exact",
    "real_text_total_variation",
    "fd_features",
    "seconds",
)


def main() -> None:
    """Runs all variants and seeds, then prints the table."""
    arguments, flags = evidence.arguments_of(__doc__, "configs/digits_text.py", VARIANTS, seeds=3)
    evidence.print_table(evidence.run_all(arguments, VARIANTS, flags), METRICS)


if __name__ == "__main__":
    main()
