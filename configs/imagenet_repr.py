r"""Case study 2 (paper section 4 and appendix D) on ImageNet: representations without labels.

    python -m lzn_jax.main --config=configs/imagenet_repr.py --config.data.path=DIR

DIR holds train/<class>/*.JPEG and val/<class>/*.JPEG; --mode=check_data looks it through.
imagenet_tfds_repr.py reads ImageNet as TensorFlow Datasets has prepared it.

Expected after 5,000,000 updates, with --config.evaluation.probe_protocol=paper: linear probe 69.5 %
top-1, 89.3 % top-5 (paper table 4; SimCLR 69.3 % after 1000 epochs, where 5,000,000 updates of
8192 images are 32,000 epochs). imagenet_repr_100ep.py is the affordable run.
Cost: 4.4e14 operations an update, 5.8e14 with micro-batches, which encode twice; the zoning takes
2.2 and 1.7 % of them. Chips: 8, 16, 32 and so on share 8192 images, up to 128 of them a micro-batch
of 128; on a pod --config.training.microbatch_size=None is faster.
Compiled for one H100, where it takes 23.3 of 84.9 GB, and for 256 TPU chips, 14.3 of 16.9 GB each:

    python -m lzn_jax.main --config=configs/imagenet_repr.py --mode=compile --slice=h100:1
    python -m lzn_jax.main --config=configs/imagenet_repr.py --mode=compile --slice=v5e:16x16 \
        --config.training.microbatch_size=None

Nothing was run there: this config was not run by us.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The config of this experiment."""
    config = ml_collections.ConfigDict()
    config.study = "representation"
    config.objective = "lzn"  # "simclr": the baseline
    config.seed = 0

    # Data: 1,281,167 training and 50,000 validation images; labels are for evaluation alone.
    config.data = ml_collections.ConfigDict()
    config.data.name = "image_folder"
    config.data.path = "data/imagenet"
    config.data.class_name = None  # all classes
    config.data.holdout = None  # there is a folder of validation images
    config.data.image_size = 224
    config.data.centre_crop = 0.875  # of whole images, for evaluation: 224 pixels of 256
    config.data.channels = 3
    config.data.num_classes = 1000
    config.data.flip = True
    config.data.workers = 16
    config.data.skip_unreadable = False

    # Views: a random crop on the host, the rest on the device (paper D.1).
    config.augmentation = ml_collections.ConfigDict()
    config.augmentation.min_area = 0.08
    config.augmentation.jitter_probability = 0.8
    config.augmentation.brightness = 0.8
    config.augmentation.contrast = 0.8
    config.augmentation.saturation = 0.8
    config.augmentation.hue = 0.2
    config.augmentation.grey_probability = 0.2
    config.augmentation.blur_probability = 1.0
    config.augmentation.blur_kernel = 23
    config.augmentation.blur_max_sigma = 2.0

    # Latents of the first views.
    config.latent = ml_collections.ConfigDict()
    config.latent.dim = 256
    config.latent.noise_scale = 0.45
    config.latent.solver = "euler"
    config.latent.num_steps = 20
    config.latent.precision = "float32"
    config.latent.context_size = 8192  # for latents in evaluation; the paper: 0, the batch itself

    # Alignment with the zones of the second views.
    config.alignment = ml_collections.ConfigDict()
    config.alignment.solver = "euler"  # or "adams", with a cut-off of 0.6
    config.alignment.num_steps = 20
    config.alignment.cutoff = 0.2
    config.alignment.form = "log"

    config.simclr = ml_collections.ConfigDict()
    config.simclr.temperature = 0.1  # of the baseline

    # ResNet-50: 28,231,232 parameters, the backbone 23,508,032.
    config.encoder = ml_collections.ConfigDict()
    config.encoder.name = "resnet"
    config.encoder.stage_sizes = (3, 4, 6, 3)  # ResNet-101: (3, 4, 23, 3), -152: (3, 8, 36, 3)
    config.encoder.stage_widths = (64, 128, 256, 512)
    config.encoder.stem = "imagenet"
    config.encoder.stem_width = 64
    config.encoder.selective_kernel_ratio = 0.0
    config.encoder.norm_groups = 32
    config.encoder.head_dim = 256
    config.encoder.head_layers = 2

    config.training = ml_collections.ConfigDict()
    config.training.batch_size = 8192
    config.training.microbatch_size = 128
    config.training.shard_parameters = False  # True: for networks that do not fit a device
    config.training.devices = "all"  # none idle: sizes that not all share are refused
    config.training.remat = False  # True: residual blocks compute their insides twice
    config.training.num_steps = 5_000_000
    config.training.learning_rate = ml_collections.ConfigDict()
    config.training.learning_rate.encoder = 8e-4
    config.training.warmup_steps = 5000
    config.training.schedule = "constant"
    config.training.gradient_clip = 1.0
    config.training.ema_decay = 0.9999
    config.training.compute_dtype = "bfloat16"  # of the encoder; the paper: float32
    config.training.log_every_steps = 100

    config.checkpoint = ml_collections.ConfigDict()
    config.checkpoint.every_steps = 1000
    config.checkpoint.keep = 2

    config.evaluation = ml_collections.ConfigDict()
    config.evaluation.every_steps = 50_000
    config.evaluation.probe_protocol = "cached"
    return config
