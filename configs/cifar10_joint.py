"""Case study 3 (paper section 5 and appendix E) on CIFAR-10: generation and classification.

    python -m lzn_jax.main --config=configs/cifar10_joint.py --config.data.path=DIR

DIR contains cifar-10-batches-bin, the binary version of CIFAR-10, or cifar10 of TensorFlow
Datasets. On one GPU add --config.training.microbatch_size=200, on 16 TPU chips 400; the results are
the same. Chips: as for cifar10_gen.py.
Expected (paper, 50,000 class-conditional samples): FID 2.40, reconstruction error 0.38, test
accuracy 94.47 %. Rectified flow alone (--config.latent.enabled=False): FID 2.47, reconstruction
error 0.69. Without generation (--config.training.generation_weight=0): accuracy 93.59 %. This
config was not run by us.
Cost and memory per update: as for cifar10_gen.py, because label zones cost almost nothing. Estimate
at 12 to 25 % of an H100's bfloat16 peak: 80 to 38 hours, a third more with micro-batches. The
original took 496 hours on A100.
Memory: 5.40 of 16.9 GB per chip when compiled for 16 TPU chips, 16.3 of 84.9 GB for one H100
(docs/compiled.md).
"""

import ml_collections

from lzn_jax import configuration


def get_config() -> ml_collections.ConfigDict:
    """cifar10_gen with latents aligned with labels, and 61,911,939 decoder parameters."""
    config = configuration.sibling(__file__, "cifar10_gen")
    config.study = "joint"

    # Alignment of the image latents, the same as for generation, with label zones.
    config.alignment.num_steps = 100
    config.alignment.form = "prob"

    config.training.num_steps = 200_000
    config.training.decoder_steps = 60_000
    config.training.learning_rate.encoder = 5e-5
    config.training.learning_rate.decoder = 2e-3
    config.training.learning_rate.label_anchors = 1e-4

    # Classification: accuracy as a function of the number of images in the batch or the context.
    config.evaluation.batch_sizes = (100, 500, 2000, 10_000)
    config.evaluation.context_sizes = (100, 500, 2000)
    return config
