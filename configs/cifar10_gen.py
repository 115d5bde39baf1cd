"""Case study 1 (paper section 3 and appendix C) on CIFAR-10: unconditional generation.

    python -m lzn_jax.main --config=configs/cifar10_gen.py --config.data.path=DIR

DIR holds cifar-10-batches-bin, the binary version of CIFAR-10, or cifar10 of TensorFlow Datasets.
On one GPU add --config.training.microbatch_size=200, on 16 TPU chips
--config.training.microbatch_size=400, which change nothing else.
Chips: 8 and 16 share a batch of 2000, 8 a micro-batch of 200, 16 one of 400. More chips need
another batch: 32 and more share --config.training.batch_size=2048.

Expected (paper, 50,000 samples): FID 2.59, sFID 3.95, inception score 9.53, CMMD 0.0355,
reconstruction error 0.41; with --config.latent.enabled=False, rectified flow alone, FID 2.76, sFID
4.05, inception score 9.51, CMMD 0.0360, reconstruction error 0.83. This config was not run by us.
Cost: 1.7e14 operations an update, 2.3e14 with micro-batches, which encode and decode twice; the
zoning takes 0.13 % of them. At 40 % of an H100's 989e12 bfloat16 operations a second that would be
6 and 8 hours, in float32 (half that rate as TF32) 12 and 16: estimates.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The config of this experiment."""
    config = ml_collections.ConfigDict()
    config.study = "generation"
    config.seed = 0

    # Data: 50,000 training and 10,000 test images; labels are for evaluation alone.
    config.data = ml_collections.ConfigDict()
    config.data.name = "cifar10"
    config.data.path = "data/cifar10"
    config.data.image_size = 32
    config.data.channels = 3
    config.data.num_classes = 10
    config.data.flip = True

    # Latents of images, for generation.
    config.latent = ml_collections.ConfigDict()
    config.latent.enabled = True  # False: rectified flow alone
    config.latent.dim = 200
    config.latent.noise_scale = 1.0
    config.latent.solver = "dpm"
    config.latent.num_steps = 20
    config.latent.precision = "float32"  # of matrix products
    config.latent.context_size = 2000  # the paper: 0, the batch itself

    # Image encoder: image -> anchor, 49,790,260 parameters.
    config.encoder = ml_collections.ConfigDict()
    config.encoder.name = "ncsnpp"
    config.encoder.patch_size = 1  # the network sees pixels
    config.encoder.features = 128
    config.encoder.channel_multipliers = (1, 2, 2, 2)  # feature maps 32, 16, 8 and 4 wide
    config.encoder.num_res_blocks = 4
    config.encoder.attention_resolutions = (16,)
    config.encoder.dropout = 0.15
    config.encoder.fir = False
    config.encoder.progressive_input = "none"
    config.encoder.tap_channels = 20
    config.encoder.tap_units = 200
    config.encoder.tap_layers = 2
    config.encoder.tap_resolutions = None  # all

    # Image decoder: noisy image, time and latent -> velocity, 61,906,819 parameters.
    config.decoder = ml_collections.ConfigDict()
    config.decoder.name = "ncsnpp"
    config.decoder.patch_size = 1  # the network sees pixels
    config.decoder.features = 128
    config.decoder.channel_multipliers = (1, 2, 2, 2)
    config.decoder.num_res_blocks = 4
    config.decoder.attention_resolutions = (16,)
    config.decoder.dropout = 0.15
    config.decoder.fir = False
    config.decoder.progressive = "none"
    config.decoder.progressive_input = "none"
    config.decoder.time_embedding = "positional"
    config.decoder.fourier_scale = 16.0  # of the Fourier embedding
    config.decoder.scale_by_sigma = False

    config.training = ml_collections.ConfigDict()
    config.training.batch_size = 2000
    config.training.microbatch_size = None  # the networks see the whole batch at once
    config.training.shard_parameters = False  # True: for networks that do not fit a device
    config.training.devices = "all"  # none idle: sizes that not all share are refused
    config.training.remat = False  # True: residual blocks compute their insides twice
    config.training.num_steps = 50_000
    config.training.learning_rate = ml_collections.ConfigDict()
    config.training.learning_rate.encoder = 2.5e-5
    config.training.learning_rate.decoder = 1e-3
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
    config.evaluation.every_steps = 10_000
    config.evaluation.num_samples = 50_000  # as many as there are training images
    config.evaluation.inception_path = None  # file of the FID network's weights
    config.evaluation.clip_path = None  # file of CLIP's weights, for CMMD

    # Sampling: the decoder's flow from noise to an image.
    config.sampling = ml_collections.ConfigDict()
    config.sampling.sampler = "rk45"
    config.sampling.num_steps = 100  # of the sampler 'euler'
    return config
