"""Case study 3 (paper section 5 and appendix E) on scikit-learn's 8x8 digits.

One latent space for images and labels: class-conditional generation, unconditional generation
and classification from one model, small enough for a laptop's CPU.

    python -m lzn_jax.main --config=configs/digits_joint.py

Expected: see docs/results.md.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The config of this experiment."""
    config = ml_collections.ConfigDict()
    config.study = "joint"
    config.seed = 0

    # Data: 1437 training and 360 test images.
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
    config.latent.noise_scale = 1.0  # the whole zone, as generation samples it
    config.latent.solver = "euler"
    config.latent.num_steps = 20
    config.latent.precision = "float32"  # of matrix products; others are for accelerators
    config.latent.context_size = 1437  # all training images; the paper: 0, the batch itself

    # Alignment of image latents with label zones.
    config.alignment = ml_collections.ConfigDict()
    # The middle of the zone; at 1, as in the paper, its border dominates the loss.
    config.alignment.noise_scale = 0.45
    config.alignment.solver = "euler"  # or "adams", with a cut-off of 0.6 (docs/results.md)
    config.alignment.num_steps = 20
    config.alignment.cutoff = 0.2
    config.alignment.form = "log"  # the paper: "prob"
    config.alignment.weight = 1.0

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

    # Image decoder: noisy image, time, latent and label -> velocity.
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
    config.training.num_steps = 1000  # 178 epochs
    config.training.decoder_steps = None  # the decoder trains to the end
    config.training.learning_rate = ml_collections.ConfigDict()
    config.training.learning_rate.encoder = 1e-3
    config.training.learning_rate.decoder = 2e-3
    config.training.learning_rate.label_anchors = 1e-3
    config.training.warmup_steps = 50
    config.training.schedule = "cosine"  # the paper: "constant", for much longer
    config.training.gradient_clip = 1.0  # global norm
    config.training.ema_decay = 0.99  # averages over the last 100 updates
    config.training.generation_weight = 1.0  # 0: the paper's classifier without generation
    config.training.compute_dtype = "float32"
    config.training.log_every_steps = 10

    config.checkpoint = ml_collections.ConfigDict()
    config.checkpoint.every_steps = 200
    config.checkpoint.keep = 2

    config.evaluation = ml_collections.ConfigDict()
    config.evaluation.every_steps = 500
    config.evaluation.num_samples = 500  # 50 of each class
    config.evaluation.inception_path = None  # Inception is for RGB images
    config.evaluation.clip_path = None  # and so is CLIP
    # Classification: how accuracy depends on noise, and on what an image's anchor stands among.
    config.evaluation.noise_scales = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2)
    config.evaluation.batch_sizes = (1, 6, 36, 360)
    config.evaluation.context_sizes = (1, 6, 36, 216, 1437)

    # Sampling: the decoder's flow from noise to an image.
    config.sampling = ml_collections.ConfigDict()
    config.sampling.sampler = "euler"
    config.sampling.num_steps = 50
    return config
