"""Tests of modes run in the repository; one way to write a config of an image folder."""

import functools
from pathlib import Path

import jax
import pytest
import small

from lzn_jax import loading
from lzn_jax.run.devices import make_mesh

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def in_repository():
    """Modes are on one device: programs of more compile longer."""
    mesh = make_mesh(1, jax.devices()[:1])
    with pytest.MonkeyPatch.context() as patch, jax.set_mesh(mesh):
        patch.chdir(ROOT)
        yield


@pytest.fixture(scope="module")
def restored_once():
    """A run is read once for all modes, so that each of its programs is compiled once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "restore", functools.cache(loading.restore))
        yield


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The folder of an untrained run of digits_joint."""
    return small.untrained_run(tmp_path_factory.mktemp("digits"), small.config())


@pytest.fixture(scope="session")
def config_of_folder():
    """Writes a config of digits on a folder of images of 8x8 pixels in two classes."""

    def write(path, images, base, **changes):
        fields = {"name": "image_folder", "path": str(images), "image_size": 8, "channels": 3}
        fields |= {"num_classes": 2, "class_name": None, "holdout": None, "flip": False}
        fields |= {"workers": 0, "skip_unreadable": False, "centre_crop": 1.0} | changes
        original = str(ROOT / "configs" / f"{base}.py")
        path.write_text(
            "import runpy\n"
            "import ml_collections\n"
            "def get_config():\n"
            f"    config = runpy.run_path({original!r})['get_config']()\n"
            f"    config.data = ml_collections.ConfigDict({fields!r})\n"
            "    return config\n"
        )
        return str(path)

    return write
