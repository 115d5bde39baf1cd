"""CLIP's image side against an oracle in NumPy, its resize against Pillow, its weights' files."""

import clip_oracle
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors_writer
import torch_writer
from PIL import Image

from lzn_jax.errors import UserError
from lzn_jax.evaluation.clip import (
    ClipVision,
    clip_embeddings,
    from_torch,
    load_clip,
    resize_bicubic,
)

VISION = "vision_model.embeddings"
FC1 = "vision_model.encoder.layers.1.mlp.fc1.weight"


@pytest.fixture(scope="module")
def state():
    return clip_oracle.random_state()


@pytest.fixture(scope="module")
def weights(state):
    return from_torch(state, "a test")


def test_embeddings_agree_with_the_oracle(state, weights):
    network, variables = weights
    images = clip_oracle.images(3)
    found = jax.jit(lambda v, x: clip_embeddings(network, v, x))(variables, images)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, clip_oracle.embeddings(state, images), atol=2e-6)


@pytest.mark.parametrize(("size", "new"), [(8, 84), (84, 40), (21, 21)])
def test_resize_is_that_of_pillow(size, new):
    """Black and white pixels overshoot, so that clipping shows; whole numbers but for ties."""
    images = clip_oracle.images(2, size=size)
    images[1] = np.where(images[1] < 128, 0, 255)
    found = np.asarray(jax.jit(resize_bicubic, static_argnums=1)(images, new))
    for image, resized in zip(images, found, strict=True):
        expected = np.asarray(Image.fromarray(image).resize((new, new), Image.Resampling.BICUBIC))
        difference = np.abs(resized - expected.astype(np.float32))
        assert difference.max() <= 1
        assert np.mean(difference > 0) < 2e-3


def test_default_sizes_are_those_of_the_published_network():
    image = jax.ShapeDtypeStruct((1, 336, 336, 3), jnp.float32)
    shapes = jax.eval_shape(ClipVision().init, jax.random.key(0), image)
    # openai/clip-vit-large-patch14-336 without text: 304,293,888 parameters.
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 304_293_888


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_files_of_both_kinds_give_the_same_network(name, tmp_path, state, weights, caplog):
    whole = {name: np.asarray(array) for name, array in {**clip_oracle.TEXT, **state}.items()}
    (torch_writer if name.endswith("bin") else safetensors_writer).write(tmp_path / name, whole)
    network, variables = load_clip(tmp_path / name)
    assert network == weights[0]
    jax.tree.map(np.testing.assert_array_equal, variables, weights[1])
    assert f"{name} is not ViT-L/14 at 336 pixels" in caplog.messages[-1]


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16])
def test_half_precision_becomes_float32(dtype, state):
    halves = {name: array.astype(dtype) for name, array in state.items()}
    rounded = {name: array.astype(np.float32) for name, array in halves.items()}
    (_, found), (_, expected) = from_torch(halves, "file"), from_torch(rounded, "file")
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b, strict=True), found, expected)


PROJECTION, HEAD = "visual_projection.weight", "vision_model.head.weight"
POSITIONS, CLASS = f"{VISION}.position_embedding.weight", f"{VISION}.class_embedding"


@pytest.mark.parametrize(
    ("name", "change", "problem"),
    [
        (CLASS, None, f"it lacks {CLASS}"),
        (FC1, None, f"it lacks {FC1}"),
        (PROJECTION, None, f"it lacks {PROJECTION}"),
        (HEAD, lambda _: np.ones((2, 2), np.float32), f"{HEAD} is left over"),
        (FC1, np.transpose, f"{FC1} is float32(128, 192), not float32(192, 128)"),
        (FC1, lambda a: a.astype(int), f"{FC1} is int64(192, 128), not float32(192, 128)"),
        (PROJECTION, np.ravel, f"{PROJECTION} is float32(2048,), not float32(any, any)"),
        (POSITIONS, lambda a: a[:4], f"{POSITIONS} is float32(4, 128), not float32(2, 128)"),
        (CLASS, lambda a: a[:100], "its width 100 is not a multiple of 64"),
    ],
)
def test_other_networks_are_refused_by_name(name, change, problem, state):
    changed = {key: array for key, array in state.items() if key != name}
    if change:
        changed[name] = change(state.get(name))
    with pytest.raises(UserError) as caught:
        from_torch(changed, "file")
    assert str(caught.value) == f"file is not CLIP's vision network: {problem}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda state: {n: np.asarray(a) for n, a in clip_oracle.TEXT.items()}, "lacks vision_mo"),
        (lambda state: [np.zeros(3, np.float32)], "is not a state dict"),
        (lambda state: state[FC1], "is not a state dict"),
        (lambda state: {"model": state}, "is not a state dict"),
        (lambda state: {**state, 0: state[FC1]}, "0 is left over"),
    ],
)
def test_torch_files_of_something_else_are_refused(content, message, tmp_path, state):
    torch_writer.write(tmp_path / "file.bin", content(state))
    with pytest.raises(UserError, match=message):
        load_clip(tmp_path / "file.bin")


def test_missing_and_damaged_files_are_refused(tmp_path, state):
    with pytest.raises(UserError, match="there is no file"):
        load_clip(tmp_path / "none.safetensors")
    for name, write in {"t.bin": torch_writer, "t.safetensors": safetensors_writer}.items():
        write.write(tmp_path / name, state)
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(UserError, match="cannot be read as a ") as caught:
            load_clip(tmp_path / name)
        assert "\n" not in str(caught.value)
