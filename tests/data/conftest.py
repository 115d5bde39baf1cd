"""One way to write folders of images, and to read a data set that is wrong."""

import json

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from lzn_jax import data
from lzn_jax.errors import UserError


@pytest.fixture
def folder_of(tmp_path):
    """Writes image number k, all k, with each name; empty files if `broken`; `texts` by name.

    Returns the config's `data` group of the folder, with the given changes.
    """

    def make(*names, broken=(), texts=(), **changes):
        for level, name in enumerate(names):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((2, 2), level, np.uint8)).save(path)
            if name in broken:
                path.write_text("no image")
        if texts:
            lines = [json.dumps({"file_name": name, "text": text}) for name, text in texts]
            (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
        fields = {"name": "image_folder", "path": str(tmp_path), "image_size": 2, "channels": 1}
        fields |= {"num_classes": 1, "class_name": None, "holdout": 0, "flip": False, "workers": 0}
        return ConfigDict(fields | {"skip_unreadable": False, "captions": bool(texts)} | changes)

    return make


@pytest.fixture
def fault_of():
    """The line that says what is wrong with a data set, or with what `read` reads."""

    def fault(config=None, *splits, read=None):
        with pytest.raises(UserError) as raised:
            read() if read else [data.load(config, split) for split in splits or ("train",)]
        (line,) = str(raised.value).splitlines()
        return line

    return fault
