"""CLIP's image side against an oracle in NumPy, its resize against Pillow, its weights' files."""

import clip_oracle
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors_writer
import torch_writer
from flax import traverse_util
from PIL import Image

from lzn_jax.errors import UserError
from lzn_jax.evaluation.clip import (
    ClipVision,
    clip_embeddings,
    clip_extractor,
    from_torch,
    load_clip,
    resize_bicubic,
)
from lzn_jax.evaluation.features import key_of_variables

VISION = "vision_model.embeddings"
FC1 = "vision_model.encoder.layers.1.mlp.fc1.weight"


@pytest.fixture(scope="module")
def state():
    return clip_oracle.random_state()


@pytest.fixture(scope="module")
def weights(state):
    return from_torch(state, "a test")


def test_embeddings_agree_with_the_oracle(state, weights):
    images = clip_oracle.images(3)
    found = jax.jit(lambda v, x: clip_embeddings(weights.network, v, x))(weights.variables, images)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, clip_oracle.embeddings(state, images), atol=2e-6)


@pytest.mark.parametrize(("size", "new"), [(8, 84), (84, 40), (21, 21)])
def test_resize_is_that_of_pillow(size, new):
    """Black and white pixels overshoot, so that clipping shows; whole numbers but for ties."""
    images = clip_oracle.images(2, size=size)
    images[1] = np.where(images[1] < 128, 0, 255)
    found = np.asarray(resize_bicubic(jnp.asarray(images), new))
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


def test_files_of_both_kinds_give_the_same_network(tmp_path, state, weights, caplog):
    whole = {**clip_oracle.TEXT, **state}
    whole = {name: np.asarray(array) for name, array in whole.items()}
    torch_writer.write(tmp_path / "pytorch_model.bin", whole)
    safetensors_writer.write(tmp_path / "model.safetensors", whole)
    for name in ("pytorch_model.bin", "model.safetensors"):
        loaded = load_clip(tmp_path / name)
        assert loaded.network == weights.network
        assert clip_extractor(tmp_path / name).key == key_of_variables(weights.variables)
        jax.tree.map(np.testing.assert_array_equal, loaded.variables, weights.variables)
        assert f"{name} is not ViT-L/14 at 336 pixels" in caplog.messages[-1]


def test_half_precision_becomes_float32(state):
    for dtype in (np.float16, jnp.bfloat16):
        halves = {name: array.astype(dtype) for name, array in state.items()}
        loaded = from_torch(halves, "file")
        assert {leaf.dtype for leaf in jax.tree.leaves(loaded.variables)} == {np.dtype("float32")}
        expected = halves[FC1].astype(np.float32).T
        flat = traverse_util.flatten_dict(loaded.variables["params"], sep=".")
        np.testing.assert_array_equal(flat[FC1.replace("weight", "kernel")], expected)


def test_the_key_tells_weights_apart(state, weights):
    other = {**state, FC1: state[FC1] + np.float32(1e-6)}
    key = key_of_variables(weights.variables)
    assert key_of_variables(from_torch(other, "file").variables) != key


def without(name):
    return lambda state: {key: value for key, value in state.items() if key != name}


def with_shape(name, change):
    return lambda state: {**state, name: change(state[name])}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda state: {}, f"it lacks {VISION}.class_embedding"),
        (without(FC1), f"it lacks {FC1}"),
        (without("visual_projection.weight"), "it lacks visual_projection.weight"),
        (
            lambda state: {**state, "vision_model.head.weight": state[FC1]},
            "vision_model.head.weight is left over",
        ),
        (
            with_shape(FC1, np.transpose),
            f"{FC1} is float32(128, 192), not float32(192, 128)",
        ),
        (
            with_shape(FC1, lambda a: a.astype(np.int64)),
            f"{FC1} is int64(192, 128), not float32(192, 128)",
        ),
        (
            with_shape("visual_projection.weight", np.ravel),
            "visual_projection.weight is float32(2048,), not float32(any, any)",
        ),
        (
            with_shape(f"{VISION}.position_embedding.weight", lambda a: a[:4]),
            f"{VISION}.position_embedding.weight is float32(4, 128), not float32(2, 128)",
        ),
        (
            with_shape(f"{VISION}.class_embedding", lambda a: a[:100]),
            "its width 100 is not a multiple of 64",
        ),
        (with_shape(FC1, lambda a: None), f"{FC1} is not a tensor"),
    ],
)
def test_other_networks_are_refused_by_name(change, problem, state):
    with pytest.raises(UserError) as caught:
        from_torch(change(state), "file")
    assert str(caught.value) == f"file is not CLIP with a vision transformer: {problem}"


def test_files_that_are_no_weights_are_refused(tmp_path, state):
    with pytest.raises(UserError, match=r"there is no file .*; the CLIP weights of CMMD are"):
        load_clip(tmp_path / "none.safetensors")
    text = {name: np.asarray(array) for name, array in clip_oracle.TEXT.items()}
    torch_writer.write(tmp_path / "text.bin", text)
    with pytest.raises(UserError, match=r"lacks vision_model\.embeddings\.class_embedding"):
        load_clip(tmp_path / "text.bin")
    torch_writer.write(tmp_path / "list.bin", [np.zeros(3, np.float32)])
    with pytest.raises(UserError, match="is not a state dict"):
        load_clip(tmp_path / "list.bin")
    torch_writer.write(tmp_path / "alone.bin", state[FC1])
    with pytest.raises(UserError, match="is not a state dict"):
        load_clip(tmp_path / "alone.bin")
    torch_writer.write(tmp_path / "numbers.bin", {**state, 0: state[FC1]})
    with pytest.raises(UserError, match="0 is left over"):
        load_clip(tmp_path / "numbers.bin")
    torch_writer.write(tmp_path / "nested.bin", {"model": state})
    with pytest.raises(UserError, match="model is not a tensor"):
        load_clip(tmp_path / "nested.bin")
    for name, write in {"t.bin": torch_writer, "t.safetensors": safetensors_writer}.items():
        write.write(tmp_path / name, state)
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(UserError, match="cannot be read as a ") as caught:
            load_clip(tmp_path / name)
        assert "\n" not in str(caught.value)
