"""The plan of a config: what it draws, decodes and aligns, as it is printed."""

from pathlib import Path

import pytest
import small

from lzn_jax.latent_space import LatentSpace
from lzn_jax.run import devices

PLANS = {
    ("digits_joint",): """
zones of image, label; latents by 10 steps of adams
image decoder <- latent of image (α 1), condition label                  weight 1
image -> zone of label, α 0.2, form log, 10 steps of adams, cut-off 0.6  weight 1""",
    (
        "digits_text",
        "training.queries=4",
        "text_weight=0.5",
        "alignment.text_to_label.weight=0",
    ): """
zones of image, label, text; latents by 20 steps of adams for 4 examples of a batch
image decoder <- latent of text (α 1) or image (α 1), in turn, condition text  weight 1
text decoder <- latent of text (α in [0, 1]) or image (α in [0, 1]), in turn   weight 0.5
image -> zone of text, α 0.45, form log, 20 steps of euler, cut-off 0.2        weight 1
image -> zone of label, α 0.45, form log, 20 steps of euler, cut-off 0.2       weight 1
""",
    ("digits_repr", "alignment.sharpness=2.0", "alignment.weight=3.0"): """
zones of image; latents by 10 steps of adams
image -> zone of image, α 0.2, form log, sharpness 2  weight 3""",
    ("digits_repr", "objective=simclr"): """
zones of image
loss 'simclr'  weight 1""",
    ("digits_gen", "latent.enabled=False"): """
image decoder <- noise alone  weight 1""",
}


def plan_of(name, *flags):
    config = small.configuration.load(f"configs/{name}.py", list(flags))
    return LatentSpace(config, devices.make_mesh(1)).plan


@pytest.mark.parametrize("case", PLANS, ids=" ".join)
def test_a_plan_is_a_line_for_each_loss(case, monkeypatch):
    name, *flags = case
    flags = [flag.replace("text_weight", "training.text_weight") for flag in flags]
    assert str(plan_of(name, *flags)) == PLANS[case].strip()


def test_docs_show_the_plan_of_the_first_run():
    page = (Path(__file__).parents[1] / "docs" / "how_it_works.md").read_text(encoding="utf-8")
    assert PLANS["digits_joint",].strip() in page


def test_pairs_without_a_scale_of_their_own_align_the_latents_of_generation():
    shared = plan_of("digits_joint", "alignment.noise_scale=None")
    assert [each.draw for each in shared.alignings] == list(shared.draws)
    assert shared.decodings[0].draws == shared.draws
    own = plan_of("digits_joint")
    assert [each.use for each in own.draws] == ["decoder", "aligned"]
