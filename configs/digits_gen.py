"""Case study 1 (paper section 3 and appendix C) on scikit-learn's 8x8 digits.

Unconditional generation from latents, small enough for a laptop's CPU.

    python -m lzn_jax.main --config=configs/digits_gen.py

Expected: fd_features 0.42 where the flow alone has 0.81, reconstruction error 59 % of its (three
seeds; docs/results.md). Cost: 9.7e9 operations an update, about 30 minutes of training on one CPU
core.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The config of this experiment."""
    config = ml_collections.ConfigDict()
    config.study = "generation"
    config.seed = 0

    # Data: 1437 training and 360 test images; labels are for evaluation alone.
    config.data = ml_collections.ConfigDict()
    config.data.name = "digits"
    config.data.image_size = 8
    config.data.channels = 1
    config.data.num_classes = 10
    config.data.flip = False  # a mirrored digit is no digit

    # Latents of images, for generation.
    config.latent = ml_collections.ConfigDict()
    config.latent.enabled = True  # False: rectified flow alone
    config.latent.dim = 32
    config.latent.noise_scale = 1.0
    config.latent.solver = "dpm"  # as in the paper; 20 steps of Euler end too near the middle
    config.latent.num_steps = 20
    config.latent.precision = "float32"  # of matrix products; others are for accelerators
    config.latent.context_size = 1437  # all training images; the paper: 0, the batch itself

    # Image encoder: image -> anchor.
    config.encoder = ml_collections.ConfigDict()
    config.encoder.name = "ncsnpp"
    config.encoder.patch_size = 1  # the network sees pixels
    config.encoder.features = 16
    config.encoder.channel_multipliers = (1, 2)  # feature maps 8 and 4 wide
    config.encoder.num_res_blocks = 1
    config.encoder.attention_resolutions = ()  # the middle block attends at any width
    config.encoder.dropout = 0.0
    config.encoder.fir = False
    config.encoder.progressive_input = "none"
    config.encoder.tap_channels = 8
    config.encoder.tap_units = 64
    config.encoder.tap_layers = 2
    config.encoder.tap_resolutions = None  # all

    # Image decoder: noisy image, time and latent -> velocity.
    config.decoder = ml_collections.ConfigDict()
    config.decoder.name = "ncsnpp"
    config.decoder.patch_size = 1  # the network sees pixels
    config.decoder.features = 16
    config.decoder.channel_multipliers = (1, 2)
    config.decoder.num_res_blocks = 1
    config.decoder.attention_resolutions = ()
    config.decoder.dropout = 0.0
    config.decoder.fir = False
    config.decoder.progressive = "none"
    config.decoder.progressive_input = "none"
    config.decoder.time_embedding = "positional"
    config.decoder.fourier_scale = 16.0  # of the Fourier embedding
    config.decoder.scale_by_sigma = False

    # Training.
    config.training = ml_collections.ConfigDict()
    config.training.batch_size = 256
    config.training.microbatch_size = None  # the networks see the whole batch at once
    config.training.shard_parameters = False  # True: for networks that do not fit a device
    config.training.devices = "dividing"  # of many devices as many as share a batch evenly
    config.training.remat = False  # True: residual blocks compute their insides twice
    config.training.num_steps = 5000  # 891 epochs
    config.training.learning_rate = ml_collections.ConfigDict()
    config.training.learning_rate.encoder = 1e-3
    config.training.learning_rate.decoder = 2e-3
    config.training.warmup_steps = 50
    config.training.schedule = "cosine"  # the paper: "constant", for much longer
    config.training.gradient_clip = 1.0  # global norm
    config.training.ema_decay = 0.99  # averages over the last 100 updates
    config.training.compute_dtype = "float32"
    config.training.log_every_steps = 10

    config.checkpoint = ml_collections.ConfigDict()
    config.checkpoint.every_steps = 200
    config.checkpoint.keep = 2

    config.evaluation = ml_collections.ConfigDict()
    config.evaluation.every_steps = 1000
    config.evaluation.num_samples = 5000  # 500 leave the Fréchet distance uncertain by a unit
    config.evaluation.inception_path = None  # Inception is for RGB images
    config.evaluation.clip_path = None  # and so is CLIP

    # Sampling: the decoder's flow from noise to an image.
    config.sampling = ml_collections.ConfigDict()
    config.sampling.sampler = "euler"
    config.sampling.num_steps = 50
    return config
