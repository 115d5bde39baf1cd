"""Case study 2 (paper section 4 and appendix D) on ImageNet for 100 epochs, not 32,000.

    python -m lzn_jax.main --config=configs/imagenet_repr_100ep.py --config.data.path=DIR

DIR contains train/<class>/*.JPEG and val/<class>/*.JPEG, as for imagenet_repr.py.
Expected: unknown, since the paper reports no number for such a short run. Compare with linear
probes of other methods after 100 epochs, for example SimCLR's 63.2 % top-1 in lightly's benchmark
(batch 256), and with --config.objective=simclr for the same network and batch. This config was not
run by us.
Cost and memory per update, chips, compilation: as for imagenet_repr.py;
--config.training.microbatch_size=None takes 4.1e14 operations if memory allows it. Estimate at 12
to 25 % of an H100's 989e12 bfloat16 operations per second: 20 to 10 hours with micro-batches, 15 to
7 without, not counting the decoding of 128 million images.
"""

import ml_collections

from lzn_jax import configuration


def get_config() -> ml_collections.ConfigDict:
    """The config of this experiment: imagenet_repr with fewer updates."""
    config = configuration.sibling(__file__, "imagenet_repr")
    config.training.num_steps = 15_639  # 100 epochs of 1,281,167 images
    config.training.warmup_steps = 1564  # 10 epochs
    config.training.schedule = "cosine"
    config.evaluation.every_steps = 5213  # a third
    return config
