"""Networks of shipped configs at full size: counts of the paper, the original's parameters.

Nothing is computed: shapes alone, traced once a config.
"""

import functools
import math
from pathlib import Path

import numpy as np
import pytest
from torch_layout import listed_shapes

from lzn_jax import configuration, convert
from lzn_jax.release.torch_keys import to_flax

CONFIGS = Path(__file__).parents[2] / "configs"
BASELINE = "latent.enabled=False"

# Parameters of each network (paper C.3, D.3, E.3); of the baseline's decoder without latents.
COUNTS = {
    ("cifar10_gen",): {"encoder": 49_790_260, "decoder": 61_906_819},
    ("cifar10_gen", BASELINE): {"decoder": 61_804_419},
    ("afhq_cat_gen",): {"encoder": 87_768_896, "decoder": 65_676_949},
    ("afhq_cat_gen", BASELINE): {"decoder": 65_574_549},
    ("cifar10_joint",): {
        "encoder": 49_790_260,
        "decoder": 61_911_939,
        "label_anchors": 10 * 200,
    },
    ("cifar10_joint", BASELINE): {"decoder": 61_809_539},
    ("imagenet_repr",): {"encoder": 28_231_232},
    ("imagenet_repr", "encoder.head_layers=1"): {"encoder": 24_032_832},
    # He et al., table 1, have convolutions of the same shapes and two numbers a channel of
    # each normalisation, as torchvision counts them without its classifier.
    ("imagenet_repr", "encoder.head_layers=1", "encoder.stage_sizes=(3, 4, 23, 3)"): {
        "encoder": 42_500_160 + 2048 * 256 + 2 * 256
    },
    ("imagenet_repr", "encoder.head_layers=1", "encoder.stage_sizes=(3, 8, 36, 3)"): {
        "encoder": 58_143_808 + 2048 * 256 + 2 * 256
    },
}
LISTED = {
    ("cifar10_gen", "encoder"): "ncsnpp_case_study_1_cifar10_encoder",
    ("cifar10_gen", "decoder"): "ncsnpp_case_study_1_cifar10_decoder",
    ("afhq_cat_gen", "encoder"): "ncsnpp_case_study_1_afhqcat_encoder",
    ("afhq_cat_gen", "decoder"): "ncsnpp_case_study_1_afhqcat_decoder",
    ("imagenet_repr", "encoder"): "resnet50",
}


@functools.cache
def layouts(name, *overrides):
    return convert.network_layouts(configuration.load(str(CONFIGS / f"{name}.py"), overrides))


@pytest.mark.slow
@pytest.mark.parametrize("config", COUNTS, ids="-".join)
def test_networks_have_the_papers_numbers_of_parameters(config):
    counts = {
        network: sum(map(math.prod, layout.shapes.values()))
        for network, layout in layouts(*config).items()
    }
    assert counts == COUNTS[config]


@pytest.mark.parametrize(("name", "network"), LISTED)
def test_parameters_are_the_originals_one_by_one(name, network):
    layout, listed = layouts(name)[network], listed_shapes(LISTED[name, network])
    assert list(layout.keys.values()) == list(listed)  # their order is all that averages go by
    for path, key in layout.keys.items():
        to_flax(key, np.broadcast_to(0.0, listed[key]), layout.shapes[path])


def test_the_backbone_of_resnet50_has_the_papers_count():
    layout = layouts("imagenet_repr")["encoder"]
    backbone = [path for path, key in layout.keys.items() if key.startswith("net")]
    assert sum(math.prod(layout.shapes[path]) for path in backbone) == 23_508_032
