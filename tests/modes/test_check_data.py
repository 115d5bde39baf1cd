"""--mode=check_data, and a whole run on a folder of images."""

import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
import small
from ml_collections import ConfigDict
from PIL import Image

from lzn_jax import data, train
from lzn_jax import main as command_line
from lzn_jax.data import Examples
from lzn_jax.errors import UserError
from lzn_jax.modes import check_data
from lzn_jax.modes.check_data import scan
from lzn_jax.run.workdir import prepare

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def in_repository(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(check_data, "TIMED_SECONDS", 0.1)


def _images(root, count=20, broken=()):
    """JPEGs of 12x10 pixels in class folders cat and dog, the broken ones cut short."""
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        for index in range(count):
            path = root / split / ("cat" if index % 2 else "dog") / f"{index:02}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = generator.integers(0, 256, (10, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
            if split == "train" and index in broken:
                path.write_bytes(path.read_bytes()[:-40])
    return root


def _config_file(tmp_path, images, base="digits_repr", **changes):
    """A config of digits on a folder of images of 8x8 pixels in two classes."""
    fields = {"name": "image_folder", "path": str(images), "image_size": 8, "channels": 3}
    fields |= {"num_classes": 2, "class_name": None, "holdout": None, "flip": True}
    fields |= {"workers": 1, "skip_unreadable": False, "centre_crop": 1.0} | changes
    path = tmp_path / "folder_repr.py"
    path.write_text(
        "import runpy\n"
        "import ml_collections\n"
        "def get_config():\n"
        f"    config = runpy.run_path({str(ROOT / f'configs/{base}.py')!r})['get_config']()\n"
        f"    config.data = ml_collections.ConfigDict({fields!r})\n"
        "    return config\n"
    )
    return str(path)


def test_a_run_on_a_folder_trains_and_evaluates_on_its_images(tmp_path):
    config = _config_file(tmp_path, _images(tmp_path / "images"))
    workdir = tmp_path / "run"
    assert command_line.main(small.flags(config, workdir)) == 0
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["step"] == 2
    assert 0 <= summary["linear_probe_top1"] <= 1
    assert 0 <= summary["knn_top1_latent"] <= 1
    # Where the images lie and who decodes them may change, what they are may not.
    moved = small.config(config, data__path="elsewhere", data__workers=0)
    prepare(moved, workdir, is_training=False)
    with pytest.raises(UserError, match=r"data\.holdout"):
        prepare(small.config(config, data__holdout=3), workdir, is_training=False)


def test_an_unreadable_image_ends_training_with_exit_code_2(tmp_path, capsys):
    config = _config_file(tmp_path, _images(tmp_path / "images", broken=range(5)), workers=0)
    flags = small.flags(config, tmp_path / "run", latent__context_size=0)
    assert command_line.main(flags) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(r"error: unreadable images .*0\d\.jpg .*truncated", message)


@pytest.mark.parametrize(
    ("content", "step"),
    [(lambda whole: b"no image", "_first_state"), (lambda whole: whole[:-40], "_loop")],
    ids=["header", "pixels"],
)
@pytest.mark.parametrize("skips", [False, True])
def test_a_broken_image_is_found_before_it_is_needed(
    content, step, skips, tmp_path, monkeypatch, capsys
):
    """One of the images that come last, by its header at once, by its pixels while compiling."""

    def end(*_):
        raise UserError("reached")

    compiled = train._compile_update
    monkeypatch.setattr(train, step, end)
    # The programs are small: the images are decoded when compilation starts.
    monkeypatch.setattr(train, "_compile_update", lambda *a: (time.sleep(1), compiled(*a))[1])
    images = _images(tmp_path / "images")
    broken = images / "train" / "dog" / "18.jpg"
    broken.write_bytes(content(broken.read_bytes()))
    config = _config_file(tmp_path, images, workers=0, skip_unreadable=skips)
    assert command_line.main(small.flags(config, tmp_path / "run", latent__context_size=0)) == 2
    *lines, last = capsys.readouterr().err.strip().splitlines()
    if skips:
        assert last == "error: reached"
        assert [line for line in lines if line.startswith("unreadable, left out (1 so far)")]
    else:
        assert last.startswith(f"error: unreadable images (1): {broken} (")


def _check(config, workdir, *extra):
    return command_line.main([*small.flags(config, workdir), "--mode=check_data", *extra])


def test_check_data_needs_no_checkpoint_and_reports_digits(tmp_path, capsys):
    assert _check("configs/digits_joint.py", tmp_path / "run") == 0
    report = capsys.readouterr().err
    assert "train: 1437 images of 8x8x1" in report
    assert "test: 360 images of 8x8x1" in report
    assert "10 classes: 0 142, 1 146" in report  # np.bincount of 80% of scikit-learn's labels
    assert len(re.findall(r"checksum [0-9a-f]{16}", report)) == 3
    with Image.open(tmp_path / "run" / "figures" / "contact_sheet.png") as sheet:
        assert min(sheet.size) > 900
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["figures"]


def test_check_data_shows_images_with_their_texts(tmp_path, capsys):
    assert _check("configs/digits_text.py", tmp_path / "run") == 0
    report = capsys.readouterr().err
    assert "train: 1437 pairs, 90 different texts of 21 different characters, 0 examples" in report
    assert "train: texts have 23 to 32 tokens, the median is 27" in report
    assert "cannot" not in report
    assert (tmp_path / "run" / "figures" / "pairs.png").is_file()


def _captioned(tmp_path, *rows, **changes):
    """digits_text on a folder of ten images of two classes and these rows of metadata."""
    images = _images(tmp_path / "images", 10)
    for split in ("train", "val"):
        lines = [json.dumps({"file_name": name, "text": text}) for name, text in rows]
        lines += [
            json.dumps({"file_name": f"{'cat' if i % 2 else 'dog'}/{i:02}.jpg", "text": f"no {i}"})
            for i in range(10)
        ]
        (images / split / "metadata.jsonl").write_text("\n".join(lines))
    return _config_file(tmp_path, images, base="digits_text", captions=True, workers=0, **changes)


def test_check_data_describes_texts_by_the_tokenizer_of_the_run(tmp_path, capsys, monkeypatch):
    drawn = []
    monkeypatch.setattr(check_data.plots, "translations", lambda *given, made: drawn.append(given))
    rows = [("cat/01.jpg", "$1 or $\\foo$"), ("cat/01.jpg", "x" * 50), ("dog/00.jpg", "no 1")]
    config = _captioned(tmp_path, *rows)
    alphabet = "--config.text.alphabet= 0123456789abcdefghijklmnopqrstuvwxyz"
    assert _check(config, tmp_path / "run", alphabet) == 0
    report = capsys.readouterr().err
    # 10 numbers, n, o, a blank, $, r, f, a backslash and x.
    assert "train: 13 pairs, 12 different texts of 18 different characters, 0 examples" in report
    assert "train: texts have 4 to 50 tokens, the median is 4" in report
    assert "'$1 or $\\\\foo$' has characters outside the run's vocabulary: $, \\" in report
    assert f"'{'x' * 50}' is longer than the run's 39 tokens" in report
    (given,) = drawn
    assert set(given[2]) >= {"no 0", "no 9"}


def test_check_data_names_what_is_no_pair_and_goes_on_to_the_pictures(tmp_path, capsys):
    rows = [("cat/99.jpg", "gone"), ("cat/01.jpg", ""), ("cat/01.jpg", "no 1")]
    assert _check(_captioned(tmp_path, *rows), tmp_path / "run") == 2
    report = capsys.readouterr().err
    assert "left out, not a pair: a text without its image: cat/99.jpg in line 1" in report
    assert report.count("an empty text: ") == report.count("a repeated pair: ") == 2  # splits
    assert "error: 6 texts or images are not pairs" in report
    assert (tmp_path / "run" / "figures" / "pairs.png").is_file()


def test_check_data_goes_on_without_what_is_no_pair_where_that_is_allowed_for(tmp_path, capsys):
    config = _captioned(tmp_path, ("cat/99.jpg", "gone"), skip_unreadable=True)
    assert _check(config, tmp_path / "run") == 0
    assert "train: 10 pairs" in capsys.readouterr().err


def test_check_data_names_and_counts_unreadable_images(tmp_path, capsys):
    config = _config_file(tmp_path, _images(tmp_path / "images", 50, broken=range(0, 50, 2)))
    assert _check(config, tmp_path / "run") == 2
    report = capsys.readouterr().err
    named = re.findall(r"unreadable: .*/train/dog/(\d\d)\.jpg: .*truncated", report)
    assert named == [f"{i:02}" for i in range(0, 40, 2)]
    assert "unreadable: and 5 more" in report
    assert "error: 25 images cannot be read (in " in report
    assert (tmp_path / "run" / "figures" / "contact_sheet.png").is_file()


def test_check_data_bears_a_folder_without_any_readable_image(tmp_path, capsys):
    config = _config_file(tmp_path, _images(tmp_path / "images", broken=range(20)))
    assert _check(config, tmp_path / "run") == 2
    assert "error: 20 images cannot be read (in " in capsys.readouterr().err


def test_check_data_goes_on_where_unreadable_images_are_allowed_for(tmp_path, capsys):
    images = _images(tmp_path / "images", broken=[4])
    config = _config_file(tmp_path, images, skip_unreadable=True, workers=0)
    assert _check(config, tmp_path / "run") == 0
    report = capsys.readouterr().err
    assert re.search(r"batches of 15: first checksum [0-9a-f]{16}, \d+ images/s", report)


def test_the_checksum_is_of_pixels_and_labels_in_order(tmp_path):
    def checksum(images, labels):
        return scan(Examples(images, np.array(labels, np.int32)), "train").checksum

    images = np.arange(3 * 4, dtype=np.uint8).reshape(3, 2, 2, 1)
    base = checksum(images, [0, 1, 2])
    assert checksum(images.copy(), [0, 1, 2]) == base
    assert checksum(images, [0, 2, 1]) != base
    assert checksum(images[[1, 0, 2]], [0, 1, 2]) != base
    assert checksum(images + 1, [0, 1, 2]) != base


def test_the_time_for_reading_a_split_is_limited():
    examples = Examples(np.zeros((1000, 2, 2, 1), np.uint8), np.zeros(1000, np.int32))
    assert scan(examples, "train").num_checked == 1000
    assert scan(examples, "train", max_seconds=0.0).num_checked == 0


def test_an_array_and_a_folder_of_the_same_images_have_the_same_checksum(tmp_path):
    fields = {"name": "image_folder", "path": str(_images(tmp_path)), "image_size": 8}
    fields |= {"channels": 3, "num_classes": 2, "class_name": None, "holdout": None}
    lazy = data.load(ConfigDict(fields | {"skip_unreadable": False}), "train")
    held = Examples(np.asarray(lazy.images), lazy.labels)
    assert scan(lazy, "train").checksum == scan(held, "train").checksum
