"""Case study 1 (paper section 3 and appendix C) on CIFAR-10: unconditional generation.

    python -m lzn_jax.main --config=configs/cifar10_gen.py --config.data.path=DIR

DIR contains cifar-10-batches-bin, the binary version of CIFAR-10, or cifar10 of TensorFlow
Datasets. On one GPU add --config.training.microbatch_size=200, on 16 TPU chips 400; the results are
the same.
Chips: 8 or 16 can share a batch of 2000, 8 a micro-batch of 200, 16 one of 400. 32 or more need
--config.training.batch_size=2048.
Expected (paper, 50,000 samples): FID 2.59, sFID 3.95, inception score 9.53, CMMD 0.0355,
reconstruction error 0.41; for rectified flow alone (--config.latent.enabled=False) FID 2.76, sFID
4.05, inception score 9.51, CMMD 0.0360, reconstruction error 0.83. This config was not run by us.
Cost: 1.7e14 operations per update, 2.3e14 with micro-batches, which encode and decode twice; zoning
takes 0.13 % of them. Estimate at 12 to 25 % of an H100's 989e12 bfloat16 operations per second: 20
to 10 hours, with micro-batches 27 to 13 (--mode=compile). The original took 128 hours on A100.
"""

import ml_collections

from lzn_jax import configuration


def get_config() -> ml_collections.ConfigDict:
    """The config of this experiment."""
    config = configuration.blank()
    config.study = "generation"
    config.data.name = "cifar10"  # 50,000 training and 10,000 test images
    config.data.path = "data/cifar10"

    config.latent.dim = 200
    config.latent.context_size = 2000  # the paper: 0, the batch itself

    # Image encoder (image -> anchor): 49,790,260 parameters. Decoder (noisy image, time, latent ->
    # velocity): 61,906,819 parameters.
    for network in (config.encoder, config.decoder):
        network.name = "ncsnpp"
        network.features = 128
        network.channel_multipliers = (1, 2, 2, 2)  # feature maps 32, 16, 8 and 4 wide
        network.num_res_blocks = 4
        network.attention_resolutions = (16,)
        network.dropout = 0.15

    # In float32, because RK45 needs more precision than bfloat16.
    config.training.batch_size = 2000
    config.training.num_steps = 50_000
    config.training.learning_rate.encoder = 2.5e-5
    config.training.learning_rate.decoder = 1e-3
    config.training.ema_decay = 0.999999
    config.evaluation.every_steps = 10_000
    config.evaluation.num_samples = 50_000  # the number of training images
    return config
