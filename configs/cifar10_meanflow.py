"""Case study 1 (paper section 3 and appendix C) on CIFAR-10 in one evaluation, by MeanFlow.

    python -m lzn_jax.main --config=configs/cifar10_meanflow.py --config.data.path=DIR

DIR and devices are as for cifar10_gen.py. --config.latent.enabled=False is MeanFlow alone.
Expected: unknown, as this config was not run by us. The published FID of MeanFlow
(arXiv:2505.13447) without latents is 2.9 on these images.
Memory: 5.36 of 16.9 GB per chip when compiled for 16 TPU chips, 16.3 of 84.9 GB for one H100
(docs/compiled.md).
Cost: 2.2e14 operations per update, 2.7e14 with micro-batches. Estimate at 12 to 25 % of an H100's
989e12 bfloat16 operations per second: 101 to 48 hours.
"""

import ml_collections

from lzn_jax import configuration


def get_config() -> ml_collections.ConfigDict:
    """cifar10_gen with a decoder of average velocities."""
    config = configuration.sibling(__file__, "cifar10_gen")
    config.decoder.name = "mean_ncsnpp"
    config.training.num_steps = 200_000
    return config
