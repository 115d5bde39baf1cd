r"""Case study 1 (paper section 3 and appendix C) on AFHQ's cats at 256 pixels: generation.

    python -m lzn_jax.main --config=configs/afhq_cat_gen.py --config.data.path=DIR

DIR holds the folders train/cat and val/cat. On one GPU add --config.training.microbatch_size=8, on
16 TPU chips --config.training.microbatch_size=16, which change nothing else.
Chips: 8, 16, 32, 64, 128 and 256 share a batch of 256.

Expected (paper, 5120 samples): FID 5.68, reconstruction error 10.29; with
--config.latent.enabled=False, rectified flow alone, 6.08 and 17.92. This config was not run by us.
Cost: 5.1e14 operations an update, a third more with micro-batches, which encode and decode twice;
the zoning takes less than 0.001 % of them. At 40 % of an H100's 989e12 bfloat16 operations a second
that would be 22 and 29 hours, in float32 (half that rate as TF32) 43 and 58: estimates.
Compiled for one H100, where it takes 19.5 of 84.9 GB; nothing was run there:

    python -m lzn_jax.main --config=configs/afhq_cat_gen.py --mode=compile --slice=h100:1 \
        --config.training.microbatch_size=8
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The config of this experiment."""
    config = ml_collections.ConfigDict()
    config.study = "generation"
    config.seed = 0

    # Data: the folders train/cat and val/cat, 5153 and 500 images in the first version of AFHQ.
    config.data = ml_collections.ConfigDict()
    config.data.name = "image_folder"
    config.data.path = "data/afhq"
    config.data.class_name = "cat"
    config.data.holdout = None  # there is a folder of validation images
    config.data.image_size = 256
    config.data.centre_crop = 1.0  # the whole middle square
    config.data.channels = 3
    config.data.num_classes = 1
    config.data.flip = True
    config.data.workers = 16
    config.data.skip_unreadable = False

    # Latents of images, for generation.
    config.latent = ml_collections.ConfigDict()
    config.latent.enabled = True  # False: rectified flow alone
    config.latent.dim = 200
    config.latent.noise_scale = 1.0
    config.latent.solver = "dpm"
    config.latent.num_steps = 20
    config.latent.precision = "float32"  # of matrix products
    config.latent.context_size = 256  # the paper: 0, the batch itself

    # Image encoder: image -> anchor, 87,768,896 parameters.
    config.encoder = ml_collections.ConfigDict()
    config.encoder.name = "ncsnpp"
    config.encoder.patch_size = 1  # the network sees pixels
    config.encoder.features = 128
    config.encoder.channel_multipliers = (1, 1, 2, 2, 2, 2, 2)  # feature maps 256 to 4 wide
    config.encoder.num_res_blocks = 2
    config.encoder.attention_resolutions = (16,)
    config.encoder.dropout = 0.0
    config.encoder.fir = True
    config.encoder.progressive_input = "input_skip"
    config.encoder.tap_channels = 20
    config.encoder.tap_units = 200
    config.encoder.tap_layers = 2
    config.encoder.tap_resolutions = (64, 32, 16, 8, 4)

    # Image decoder: noisy image, time and latent -> velocity, 65,676,949 parameters
    # of which 128 are Fourier frequencies that stay as they were drawn.
    config.decoder = ml_collections.ConfigDict()
    config.decoder.name = "ncsnpp"
    config.decoder.patch_size = 1  # the network sees pixels
    config.decoder.features = 128
    config.decoder.channel_multipliers = (1, 1, 2, 2, 2, 2, 2)
    config.decoder.num_res_blocks = 2
    config.decoder.attention_resolutions = (16,)
    config.decoder.dropout = 0.0
    config.decoder.fir = True
    config.decoder.progressive = "output_skip"
    config.decoder.progressive_input = "input_skip"
    config.decoder.time_embedding = "fourier"
    config.decoder.fourier_scale = 16.0
    config.decoder.scale_by_sigma = True

    config.training = ml_collections.ConfigDict()
    config.training.batch_size = 256
    config.training.microbatch_size = None  # the networks see the whole batch at once
    config.training.shard_parameters = False  # True: for networks that do not fit a device
    config.training.devices = "all"  # none idle: sizes that not all share are refused
    config.training.remat = False  # True: residual blocks compute their insides twice
    config.training.num_steps = 60_000
    config.training.learning_rate = ml_collections.ConfigDict()
    config.training.learning_rate.encoder = 2e-6
    config.training.learning_rate.decoder = 2e-4
    config.training.warmup_steps = 5000
    config.training.schedule = "constant"
    config.training.gradient_clip = 1.0
    config.training.ema_decay = 0.999999
    config.training.compute_dtype = "float32"  # RK45 asks for more digits than bfloat16 has
    config.training.log_every_steps = 100

    config.checkpoint = ml_collections.ConfigDict()
    config.checkpoint.every_steps = 1000
    config.checkpoint.keep = 2

    config.evaluation = ml_collections.ConfigDict()
    config.evaluation.every_steps = 20_000
    config.evaluation.num_samples = 5120  # as the paper; all but 33 of the training images
    config.evaluation.inception_path = None  # file of the FID network's weights
    config.evaluation.clip_path = None  # file of CLIP's weights, for CMMD

    # Sampling: the decoder's flow from noise to an image.
    config.sampling = ml_collections.ConfigDict()
    config.sampling.sampler = "rk45"
    config.sampling.num_steps = 100  # of the sampler 'euler'
    return config
