"""The FID Inception network against an oracle in NumPy, its resize, and its weights' files."""

import functools
import hashlib

import inception_oracle
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_writer
from flax import traverse_util

from lzn_jax.errors import UserError
from lzn_jax.evaluation.features import Outputs
from lzn_jax.evaluation.inception import (
    InceptionV3,
    from_torch,
    inception_extractor,
    inception_outputs,
    load_inception,
    resize_bilinear,
)


@pytest.fixture(scope="module", autouse=True)
def shapes():
    """Every file needs the shapes of the variables, which are traced once."""
    image = jax.ShapeDtypeStruct((1, 75, 75, 3), jnp.float32)
    known = jax.eval_shape(InceptionV3().init, jax.random.key(0), image)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InceptionV3, "init", lambda *_: jax.tree.map(jnp.empty_like, known))
        yield


@pytest.fixture(scope="module")
def state():
    return inception_oracle.random_state()


@pytest.fixture(scope="module")
def variables(state):
    return from_torch(state, "a test")


def _images():
    """Pixels in [-1, 1): one image, neither square nor small enough for maps of one pixel."""
    pixels = np.random.default_rng(0).integers(0, 256, (1, 139, 107, 3))
    return (pixels / 128 - 1).astype(np.float32)


@pytest.fixture(scope="module")
def run(variables):
    """Outputs for the images, and what the layers give by name."""
    apply = functools.partial(InceptionV3().apply, capture_intermediates=True, mutable=True)
    outputs, extra = jax.jit(apply)(variables, _images())
    flat = traverse_util.flatten_dict(extra["intermediates"])
    return outputs, {".".join(path[:-1]): value[0] for path, value in flat.items()}


def test_every_layer_agrees_with_the_oracle(state, run):
    oracle = inception_oracle.Oracle(state)
    features = oracle(_images().astype(np.float64).transpose(0, 3, 1, 2))
    outputs, layers = run
    assert len(oracle.layers) == 94
    for name, expected in oracle.layers.items():
        expected = expected.transpose(0, 2, 3, 1)
        assert layers[name].shape == expected.shape, name
        np.testing.assert_allclose(
            layers[name], expected, atol=2e-5 * np.abs(expected).max(), err_msg=name
        )
    np.testing.assert_allclose(outputs.features, features, atol=1e-4)
    np.testing.assert_allclose(outputs.logits, features @ state["fc.weight"].T, atol=1e-4)
    spatial = oracle.layers["Mixed_6d.branch1x1"][:, :7].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(outputs.spatial, spatial.reshape(1, -1), atol=1e-4)


def test_pixels_become_299_square_and_centred(variables, monkeypatch):
    """Flat grey images show the normalisation."""
    grey = np.full((2, 8, 10, 1), 77, np.uint8)
    outputs = jax.eval_shape(inception_outputs, variables, grey)
    assert [a.shape for a in outputs] == [(2, 2048), (2, 7 * 17 * 17), (2, 1008)]
    assert outputs.features.dtype == jnp.float32
    monkeypatch.setattr(InceptionV3, "apply", lambda self, given, pixels: Outputs(pixels, given))
    pixels, given, _ = jax.jit(inception_outputs)(variables["params"]["fc"], grey)
    jax.tree.map(np.testing.assert_array_equal, given, variables["params"]["fc"])
    assert pixels.dtype == jnp.float32
    np.testing.assert_array_equal(pixels, np.full((2, 299, 299, 3), (77 - 128) / 128, np.float32))


def test_resize_by_hand():
    resize = jax.jit(resize_bilinear, static_argnums=1)
    image = np.array([[0, 8], [16, 32]], np.float32)[None, :, :, None]
    # Positions 0, 0.5, 1, 1.5: the last lies beyond the last pixel.
    rows = np.array([[0, 4, 8, 8], [8, 14, 20, 20], [16, 24, 32, 32], [16, 24, 32, 32]])
    np.testing.assert_allclose(resize(image, 4)[0, :, :, 0], rows)
    # Smaller: pixels 0 and 2 of 0 ... 3, no mean over what lies between.
    ramp = np.broadcast_to(np.arange(4, dtype=np.float32)[:, None], (1, 4, 4, 1))
    np.testing.assert_allclose(resize(ramp, 2)[0, 0, :, 0], [0, 2])


def test_weights_from_a_pytorch_file(tmp_path, state, variables):
    path = tmp_path / "weights.pth"
    torch_writer.write(path, state)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    named = path.rename(tmp_path / f"pt_inception-2015-12-05-{digest[:8]}.pth")
    loaded = load_inception(named)
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)
    # The original file is older than PyTorch's zip format.
    torch_writer.write_stream(tmp_path / "stream.pth", state)
    streamed = inception_extractor(tmp_path / "stream.pth")
    assert (streamed.name, streamed.apply) == ("inception", inception_outputs)
    jax.tree.map(np.testing.assert_array_equal, streamed.variables, variables)
    wrong = named.rename(tmp_path / "pt_inception-2015-12-05-6726825d.pth")
    with pytest.raises(UserError, match=f"starts with {digest[:8]}, not 6726825d"):
        load_inception(wrong)


KERNEL = "Mixed_6d.branch7x7_2.conv.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda kernel: {"AuxLogits.fc.weight": kernel}, r"AuxLogits\.fc\.weight is left over"),
        (lambda kernel: {KERNEL: kernel.transpose(0, 1, 3, 2)}, f"{KERNEL} is float32"),
        (lambda kernel: {KERNEL: kernel.astype(np.float64)}, f"{KERNEL} is float64"),
    ],
)
def test_weights_of_other_networks_are_refused(change, message, state):
    with pytest.raises(UserError, match=message):
        from_torch(state | change(state[KERNEL]), "file")
    with pytest.raises(UserError, match=f"lacks {KERNEL}"):
        from_torch({name: array for name, array in state.items() if name != KERNEL}, "file")


def test_files_that_are_no_weights_are_refused(tmp_path):
    with pytest.raises(UserError, match="there is no file"):
        load_inception(tmp_path / "none.pth")
    torch_writer.write(tmp_path / "list.pth", [np.zeros(3, np.float32)])
    with pytest.raises(UserError, match="not a state dict"):
        load_inception(tmp_path / "list.pth")
