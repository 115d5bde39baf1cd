"""Images, labels and text in one space: every task of the paper's figure 1, over seeds.

    python benchmarks/text_evidence.py --seeds 3 --variants LZN
    python benchmarks/text_evidence.py --config=configs/emoji_text.py --seeds 3 --variants \
        LZN InfoNCE adams alpha_0.2 alpha_1.0 prob one_way large_batch

`InfoNCE` trains the same encoders by CLIP's loss, and is measured by retrieval alone. `adams`
aligns by Adams-Bashforth, as the config without text does; `alpha_*` aligns other parts of zones,
`prob` by the other form of the loss, `one_way` images with texts alone, `large_batch` 1024 pairs.
"""

import evidence

VARIANTS = {
    "LZN": [],
    "InfoNCE": ["--config.objective=infonce"],
    "adams": ["--config.alignment.solver=adams", "--config.alignment.cutoff=0.6"],
    **{f"alpha_{a}": [f"--config.alignment.noise_scale={a}"] for a in (0.2, 1.0)},
    "prob": ["--config.alignment.form=prob"],
    "zones": ["--config.training.generation_weight=0.0", "--config.training.text_weight=0.0"],
    "own_latents": [
        "--config.decoder.latents=('image',)",
        "--config.text_decoder.latents=('text',)",
    ],
    "partner_latents": [
        "--config.decoder.latents=('text',)",
        "--config.text_decoder.latents=('image',)",
    ],
    "latent_alone": ["--config.decoder.told=None"],
    "one_way": ["--config.alignments=('image:text',)"],
    "large_batch": ["--config.training.batch_size=1024", "--config.training.microbatch_size=256"],
}
METRICS = (
    *(f"retrieval_{name}_r{k}" for name in ("image_to_text", "text_to_image") for k in (1, 10)),
    "image_to_text_words",
    *(f"text_to_image_r{k}" for k in (1, 10)),
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
