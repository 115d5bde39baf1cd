"""Images, labels and text in one space: every task of the paper's figure 1, over seeds.

    python benchmarks/text_evidence.py --seeds 3 --variants LZN
    python benchmarks/text_evidence.py --config=configs/emoji_text.py --seeds 3 --variants \
        LZN InfoNCE
    python benchmarks/text_evidence.py --config=configs/emoji_text.py --seeds 1 --variants \
        zones zones_wide zones_late zones_fast zones_prob zones_adams zones_one_way \
        zones_small_batch zones_large_batch \
        --folder results/emoji_short --config.training.num_steps=300
    python benchmarks/text_evidence.py --folder results/digits_text_validation --seeds 1 \
        --variants LZN alpha_0.2 alpha_0.7 cutoff_0.5 prob \
        InfoNCE_0.02 InfoNCE_0.04 InfoNCE InfoNCE_0.14 --config.data.validation=287

`zones` trains encoders alone, by alignment; `InfoNCE` the same ones by CLIP's loss. Both are
measured by retrieval. `zones_wide` aligns latents of α = 0.45, `zones_late` by the second half of
the flow, `zones_fast` at twice the learning rates, `zones_prob` by the other form of the loss,
`zones_adams` by Adams-Bashforth, `zones_one_way` images with texts alone, `zones_small_batch` and
`zones_large_batch` a quarter and twice as many pairs an update.

`prob` and `adams` align so with decoders as well, `alpha_0.2` and `alpha_0.7` at that α,
`cutoff_0.5` by the second half of the flow; `InfoNCE_0.02` and the like have that temperature. The
decoders of `own_latents` see latents of their own type alone, those of `partner_latents` of the
other; the image decoder of `latent_alone` is told no text.
"""

import evidence

INFONCE = ["--config.objective=infonce"]
ZONES = ["--config.training.generation_weight=0.0", "--config.training.text_weight=0.0"]
PROB = ["--config.alignment.form=prob"]
ADAMS = ["--config.alignment.solver=adams", "--config.alignment.cutoff=0.6"]
FAST = [f"--config.training.learning_rate.{name}=2e-3" for name in ("encoder", "text_encoder")]
VARIANTS = {
    "LZN": [],
    "InfoNCE": INFONCE,
    **{f"InfoNCE_{t}": [*INFONCE, f"--config.infonce.temperature={t}"] for t in (0.02, 0.04, 0.14)},
    **{f"alpha_{alpha}": [f"--config.alignment.noise_scale={alpha}"] for alpha in (0.2, 0.7)},
    "cutoff_0.5": ["--config.alignment.cutoff=0.5"],
    "zones": ZONES,
    "zones_wide": [*ZONES, "--config.alignment.noise_scale=0.45"],
    "zones_late": [*ZONES, "--config.alignment.cutoff=0.5"],
    "zones_fast": [*ZONES, *FAST],
    "zones_prob": [*ZONES, *PROB],
    "zones_adams": [*ZONES, *ADAMS],
    "zones_one_way": [*ZONES, "--config.alignments=('image:text',)"],
    "zones_small_batch": [*ZONES, "--config.training.batch_size=64"],
    "zones_large_batch": [*ZONES, "--config.training.batch_size=512"],
    "adams": ADAMS,
    "prob": PROB,
    "own_latents": [
        "--config.decoder.latents=('image',)",
        "--config.text_decoder.latents=('text',)",
    ],
    "partner_latents": [
        "--config.decoder.latents=('text',)",
        "--config.text_decoder.latents=('image',)",
    ],
    "latent_alone": ["--config.decoder.condition=None"],
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
