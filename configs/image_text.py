"""One space of images and texts (paper figure 1) at full scale: images of 64 to 256 pixels.

    python -m lzn_jax.main --config=configs/image_text.py --config.data.path=DIR \
        --config.data.tokenizer_path=tokenizer.json

DIR holds the folders train and val of images, and metadata.jsonl, a line a pair (docs/text.md);
image_tfds_text.py reads COCO's captions. The tokenizer is a file of Hugging Face's package. Without
one texts are bytes, of which captions of a sentence need --config.text.max_length=256.
For 256 pixels add --config.data.image_size=256 --config.encoder.stem=imagenet
--config.decoder.patch_size=4: both networks then see 64 x 64 places, as they do of 64 pixels.
Expected: not trained. This config was not run by us. --config.objective=infonce is the baseline of
retrieval.
Cost: 3.9e14 operations an update, of which the zoning takes 0.1 %. At 40 % of an H100's 989e12
bfloat16 operations a second that would be 27 hours: an estimate. Chips: 8, 16, 32 and so on share a
batch of 1024. On one GPU add --config.training.microbatch_size=64: 5.0e14 operations, the same
results.
Memory: the state takes 4.7 GB, with 30,522 tokens 5.8 GB, on each chip, unless
--config.training.shard_parameters=True divides it. With 30,522 tokens the step takes 10.5 GB of
each of 16 v5e chips, 11 GB with 256 pixels, and, in parts of 64, 22.6 GB of one H100, by their
compilers (docs/compiled.md).
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
    config.data.flip = False  # texts tell left from right

    config.latent.dim = 256
    config.latent.solver = "adams"
    config.latent.num_steps = 10
    config.latent.context_size = 8192

    # Both ways: images into the zones of their texts, texts into those of their images.
    config.alignment.noise_scale = 0.45
    config.alignment.num_steps = 20

    # ResNet-50, 28,223,552 parameters, whose first feature maps are as wide as the decoder's.
    config.encoder.name = "resnet"
    config.encoder.stem = "small"
    config.encoder.stage_sizes = (3, 4, 6, 3)
    config.encoder.stage_widths = (64, 128, 256, 512)
    config.encoder.head_dim = 256

    # Noisy image, time, latent and the anchor of the text -> velocity, 90,078,467 parameters.
    config.decoder.name = "ncsnpp"
    config.decoder.features = 128
    config.decoder.channel_multipliers = (1, 2, 3, 4)  # feature maps 64, 32, 16 and 8 wide
    config.decoder.num_res_blocks = 2
    config.decoder.attention_resolutions = (16,)
    config.decoder.condition_dropout = 0.1

    # Of the size of BERT's base: 90,221,824 and 85,697,537 parameters with bytes.
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
    config.sampling.sampler = "euler"  # RK45 asks for more digits than bfloat16 has
    config.sampling.num_steps = 50
    return config
