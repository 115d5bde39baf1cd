"""One space of images and texts (paper figure 1) at full scale: images of 64 to 256 pixels.

    python -m lzn_jax.main --config=configs/image_text.py --config.data.path=DIR \
        --config.data.tokenizer_path=tokenizer.json

DIR contains the folders train and val of images, and metadata.jsonl with one pair per line
(docs/text.md); image_tfds_text.py reads COCO's captions. The tokenizer is a file of Hugging Face's
tokenizers. Without a file texts are bytes, and sentences need --config.text.max_length=256.
For 256 pixels add --config.data.image_size=256 --config.encoder.stem=imagenet
--config.decoder.patch_size=4: the feature maps of both networks then stay 64 x 64.
Expected: unknown, as this config was not run by us. --config.objective=infonce is the baseline for
retrieval.
Cost: 3.9e14 operations per update; zoning takes 0.1 % of them. Estimate at 12 to 25 % of an H100's
989e12 bfloat16 operations per second: 91 to 44 hours. On one GPU add
--config.training.microbatch_size=64, which takes 5.0e14 operations for the same results. Chips: 8,
16, 32 and so on can share a batch of 1024.
Memory: the state takes 4.7 GB per chip, 5.8 GB with 30,522 tokens, unless
--config.training.shard_parameters=True divides it. According to the compilers an update with 30,522
tokens takes 10.5 GB on each of 16 v5e chips (11 GB for 256 pixels), or 22.6 GB on one H100 with
micro-batches of 64 (docs/compiled.md).
"""

import ml_collections

from lzn_jax import configuration


def get_config() -> ml_collections.ConfigDict:
    """The config of this experiment."""
    config = configuration.blank()
    config.study = "pairs"

    # Data: images with metadata.jsonl, in the folders train and val or test.
    config.data.name = "image_folder"
    config.data.path = "data/pairs"
    config.data.captions = True
    config.data.image_size = 64
    config.data.channels = 3
    config.data.num_classes = 1
    config.data.flip = False  # texts may mention left and right

    config.latent.dim = 256
    config.latent.solver = "adams"
    config.latent.num_steps = 10
    config.latent.context_size = 8192

    # In both directions: images with the zones of texts, texts with the zones of images.
    config.alignment.noise_scale = 0.45
    config.alignment.num_steps = 20

    # ResNet-50 (28,223,552 parameters) with first feature maps as wide as the decoder's.
    config.encoder.name = "resnet"
    config.encoder.stem = "small"
    config.encoder.stage_sizes = (3, 4, 6, 3)
    config.encoder.stage_widths = (64, 128, 256, 512)
    config.encoder.head_dim = 256

    # Noisy image, time, latent, text anchor -> velocity: 90,078,467 parameters.
    config.decoder.name = "ncsnpp"
    config.decoder.features = 128
    config.decoder.channel_multipliers = (1, 2, 3, 4)  # feature maps 64, 32, 16 and 8 wide
    config.decoder.num_res_blocks = 2
    config.decoder.attention_resolutions = (16,)
    config.decoder.condition_dropout = 0.1

    # Size of BERT base: 90,221,824 and 85,697,537 parameters with bytes.
    config.text.max_length = 64
    config.text.context_size = 8192
    for network in (config.text_encoder, config.text_decoder):
        network.features = 768
        network.num_layers = 12
        network.num_heads = 12

    config.training.batch_size = 1024
    config.training.num_steps = 100_000
    config.training.learning_rate.encoder = 2e-4
    config.training.learning_rate.decoder = 2e-4
    config.training.learning_rate.text_encoder = 1e-4
    config.training.learning_rate.text_decoder = 1e-4
    config.training.schedule = "cosine"
    config.training.ema_decay = 0.9999
    config.training.compute_dtype = "bfloat16"
    config.training.remat = True
    config.evaluation.every_steps = 10_000
    config.evaluation.num_samples = 5000
    config.sampling.sampler = "euler"  # RK45 needs more precision than bfloat16
    config.sampling.num_steps = 50
    return config
