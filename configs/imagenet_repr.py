"""Case study 2 (paper section 4 and appendix D) on ImageNet: representations without labels.

    python -m lzn_jax.main --config=configs/imagenet_repr.py --config.data.path=DIR

DIR contains train/<class>/*.JPEG and val/<class>/*.JPEG; --mode=check_data checks the files.
imagenet_tfds_repr.py reads ImageNet as prepared by TensorFlow Datasets.
Expected after 5,000,000 updates, with --config.evaluation.probe_protocol=paper: linear probe 69.5 %
top-1, 89.3 % top-5 (paper table 4; SimCLR 69.3 % after 1000 epochs, while 5,000,000 updates of 8192
images are 32,000 epochs). This config was not run by us. imagenet_repr_100ep.py is an affordable
run.
Cost: 4.1e14 operations per update, 5.5e14 with micro-batches, which encode twice; zoning takes 2.3
and 1.8 % of them. Chips: 8, 16, 32 and so on can share 8192 images, up to 128 chips a micro-batch
of 128; on a pod --config.training.microbatch_size=None is faster.
Memory: 18.4 of 84.9 GB when compiled for one H100, and 3.32 of 16.9 GB per chip when compiled for
256 TPU chips (docs/compiled.md).
"""

import ml_collections

from lzn_jax import configuration


def get_config() -> ml_collections.ConfigDict:
    """The config of this experiment."""
    config = configuration.blank()
    config.study = "representation"
    # Data: 1,281,167 training and 50,000 validation images; labels are only for evaluation.
    config.data.name = "image_folder"
    config.data.path = "data/imagenet"
    config.data.image_size = 224
    config.data.channels = 3
    config.data.centre_crop = 0.875  # for evaluation on whole images: 224 pixels of 256
    config.data.num_classes = 1000

    # Latents of the first views are aligned with the zones of the second views (paper D.1).
    config.latent.dim = 256
    config.latent.noise_scale = 0.45
    config.latent.context_size = 8192  # for latents in evaluation; the paper: 0, the batch itself
    config.alignment.num_steps = 20  # of Euler; the solver "adams" needs a cut-off of 0.6

    # ResNet-50: 28,231,232 parameters, 23,508,032 of them in the backbone.
    config.encoder.name = "resnet"
    config.encoder.stage_sizes = (3, 4, 6, 3)  # ResNet-101: (3, 4, 23, 3), -152: (3, 8, 36, 3)
    config.encoder.stage_widths = (64, 128, 256, 512)
    config.encoder.head_dim = 256

    config.training.batch_size = 8192
    config.training.microbatch_size = 128
    config.training.num_steps = 5_000_000
    config.training.learning_rate.encoder = 8e-4
    config.training.ema_decay = 0.9999
    config.training.compute_dtype = "bfloat16"  # for the encoder; the paper: float32
    config.evaluation.every_steps = 50_000
    return config
