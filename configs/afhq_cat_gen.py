"""Case study 1 (paper section 3 and appendix C) on AFHQ's cats at 256 pixels: generation.

    python -m lzn_jax.main --config=configs/afhq_cat_gen.py --config.data.path=DIR

DIR contains the folders train/cat and val/cat. On one GPU add --config.training.microbatch_size=8,
on 16 TPU chips --config.training.microbatch_size=16; the results are the same.
Chips: 8, 16, 32, 64, 128 or 256 can share a batch of 256.
Expected (paper, 5120 samples): FID 5.68, reconstruction error 10.29; for rectified flow alone
(--config.latent.enabled=False) 6.08 and 17.92. This config was not run by us.
Cost: 5.1e14 operations per update, a third more with micro-batches, which encode and decode twice;
zoning takes less than 0.001 % of them. Estimate at 12 to 25 % of an H100's 989e12 bfloat16
operations per second: 72 to 34 hours, a third more with micro-batches.
Memory: 19.2 of 84.9 GB when compiled for one H100, 6.43 of 16.9 GB per chip for 16 TPU chips
(docs/compiled.md).
"""

import ml_collections

from lzn_jax import configuration


def get_config() -> ml_collections.ConfigDict:
    """The config of this experiment."""
    config = configuration.blank()
    config.study = "generation"

    # Data: the folders train/cat and val/cat, 5153 and 500 images in the first version of AFHQ.
    config.data.name = "image_folder"
    config.data.path = "data/afhq"
    config.data.class_name = "cat"
    config.data.image_size = 256
    config.data.channels = 3
    config.data.num_classes = 1

    config.latent.dim = 200
    config.latent.context_size = 256  # the paper: 0, the batch itself

    # Image encoder (image -> anchor): 87,768,896 parameters. Decoder (noisy image, time, latent ->
    # velocity): 65,676,949 parameters, including 128 Fourier frequencies that are not trained.
    for network in (config.encoder, config.decoder):
        network.name = "ncsnpp"
        network.features = 128
        network.channel_multipliers = (1, 1, 2, 2, 2, 2, 2)  # feature maps 256 to 4 wide
        network.num_res_blocks = 2
        network.attention_resolutions = (16,)
        network.fir = True
        network.progressive_input = "input_skip"
    config.encoder.tap_resolutions = (64, 32, 16, 8, 4)
    config.decoder.progressive = "output_skip"
    config.decoder.time_embedding = "fourier"
    config.decoder.scale_by_sigma = True

    # In float32, because RK45 needs more precision than bfloat16.
    config.training.batch_size = 256
    config.training.num_steps = 60_000
    config.training.learning_rate.encoder = 2e-6
    config.training.learning_rate.decoder = 2e-4
    config.training.ema_decay = 0.999999
    config.evaluation.every_steps = 20_000
    config.evaluation.num_samples = 5120  # as in the paper; 33 fewer than the training images
    return config
