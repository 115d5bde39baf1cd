"""Generation by LZN alone (paper appendix G) on CIFAR-10: one pass, trained by drift.

    python -m lzn_jax.main --config=configs/cifar10_alone.py --config.data.path=DIR

DIR is as for cifar10_gen.py. On one GPU add --config.training.microbatch_size=400.
Expected: unknown, as this config was not run by us. Published one-pass generators, trained by drift
in features of a large pretrained network, reach an FID of 1.6 on ImageNet at 256 pixels
(arXiv:2602.04770). This config compares pixels, patches and the run's own anchors.
Cost: 6.1e13 operations per update, 7.4e13 with micro-batches. Estimate at 12 to 25 % of an H100's
989e12 bfloat16 operations per second: 7 to 3 hours, a fifth more with micro-batches.
Memory: 5.77 of 16.9 GB per chip when compiled for 16 TPU chips, 19.9 of 84.9 GB for one H100
(docs/compiled.md).
"""

import ml_collections

from lzn_jax import configuration


def get_config() -> ml_collections.ConfigDict:
    """cifar10_gen with a one-pass decoder, which decodes a fifth of each batch."""
    config = configuration.sibling(__file__, "cifar10_gen")
    config.study = "alone"

    # Zones in the converged limit, so that the decoder's inputs in training follow the prior.
    config.latent.solver = "adams"
    config.latent.num_steps = 10

    # For classification by zones.
    config.alignment.solver = "adams"
    config.alignment.num_steps = 10
    config.alignment.cutoff = 0.6
    config.training.learning_rate.label_anchors = 1e-4

    config.decoder.name = "direct"
    config.decoder.set_loss = "drift"
    config.decoder.set_weight = 0.5
    config.decoder.set_anchors = 1.0
    config.training.queries = 400
    config.evaluation.noise_scales = ()
    config.evaluation.batch_sizes = ()
    config.evaluation.context_sizes = ()
    return config
