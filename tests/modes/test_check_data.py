"""--mode=check_data, and a whole run on a folder of images."""

import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
import small
from PIL import ExifTags, Image

from lzn_jax import data, train
from lzn_jax import main as command_line
from lzn_jax.errors import UserError
from lzn_jax.modes import check_data, compile
from lzn_jax.run.workdir import prepare


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


@pytest.fixture
def config_file(tmp_path, config_of_folder):
    """Writes a config on a folder of images."""

    def write(images, base="digits_repr", **changes):
        return config_of_folder(tmp_path / "folder_repr.py", images, base, **changes)

    return write


@pytest.mark.slow
def test_a_run_on_a_folder_trains_and_evaluates_on_its_images(config_file, tmp_path):
    config = config_file(_images(tmp_path / "images"), workers=1, flip=True)
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


@pytest.mark.parametrize(
    ("content", "step"),
    [(lambda whole: b"no image", "_start"), (lambda whole: whole[:-40], "_loop")],
    ids=["header", "pixels"],
)
@pytest.mark.parametrize("skips", [False, *small.slow(True)])
def test_a_broken_image_is_found_before_it_is_needed(
    content, step, skips, config_file, tmp_path, monkeypatch, capsys
):
    """One of the images that come last, by its header at once, by its pixels while compiling."""

    def end(*_):
        raise UserError("reached")

    lowered = train._lower_update
    monkeypatch.setattr(train, step, end)
    # The programs are small: the images are decoded when compilation starts.
    monkeypatch.setattr(train, "_lower_update", lambda *a: (time.sleep(1), lowered(*a))[1])
    images = _images(tmp_path / "images")
    broken = images / "train" / "dog" / "18.jpg"
    broken.write_bytes(content(broken.read_bytes()))
    config = config_file(images, skip_unreadable=skips)
    assert command_line.main(small.flags(config, tmp_path / "run", latent__context_size=0)) == 2
    *lines, last = capsys.readouterr().err.strip().splitlines()
    if skips:
        assert last == "error: reached"
        assert [line for line in lines if line.startswith("unreadable, left out (1 so far)")]
    else:
        assert last.startswith(f"error: unreadable images (1): {broken} (")


def _check(config, workdir, *extra):
    return command_line.main([*small.flags(config, workdir), "--mode=check_data", *extra])


def test_a_report_needs_no_checkpoint_and_has_counts_texts_and_pictures(tmp_path, capsys):
    assert _check("configs/digits_text.py", tmp_path / "run") == 0
    report = capsys.readouterr().err
    assert "train: 1437 images of 8x8x1" in report
    assert "test: 360 images of 8x8x1" in report
    assert "10 classes: 0 142, 1 146" in report  # np.bincount of 80% of scikit-learn's labels
    assert "train: 1437 pairs, 90 different texts of 21 different characters, 0 examples" in report
    assert "train: texts have 23 to 32 tokens, the median is 27" in report
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["figures"]
    with Image.open(tmp_path / "run" / "figures" / "contact_sheet.png") as sheet:
        assert min(sheet.size) > 900
    assert (tmp_path / "run" / "figures" / "pairs.png").is_file()


@pytest.fixture
def captioned(tmp_path, config_file):
    """Writes digits_text on a folder of ten images of two classes and these rows of metadata."""
    images = _images(tmp_path / "images", 10)

    def write(*rows, **changes):
        names = (f"{'cat' if i % 2 else 'dog'}/{i:02}.jpg" for i in range(10))
        rows = [*rows, *((name, f"no {i}") for i, name in enumerate(names))]
        lines = [json.dumps({"file_name": name, "text": text}) for name, text in rows]
        for split in ("train", "val"):
            (images / split / "metadata.jsonl").write_text("\n".join(lines))
        return config_file(images, "digits_text", captions=True, **changes)

    return write


def test_texts_are_described_by_the_tokenizer_of_the_run(captioned, tmp_path, capsys, monkeypatch):
    drawn = []
    monkeypatch.setattr(check_data.plots, "translations", lambda *given, made: drawn.append(given))
    rows = [("cat/01.jpg", "$1 or $\\foo$"), ("cat/01.jpg", "x" * 50), ("dog/00.jpg", "no 1")]
    alphabet = "--config.text.alphabet= 0123456789abcdefghijklmnopqrstuvwxyz"
    assert _check(captioned(*rows), tmp_path / "run", alphabet) == 0
    report = capsys.readouterr().err
    # 10 numbers, n, o, a blank, $, r, f, a backslash and x.
    assert "train: 13 pairs, 12 different texts of 18 different characters, 0 examples" in report
    assert "train: texts have 4 to 50 tokens, the median is 4" in report
    assert "'$1 or $\\\\foo$' has characters outside the run's vocabulary: $, \\" in report
    assert f"'{'x' * 50}' is longer than the run's 39 tokens" in report
    assert set(drawn[0][2]) >= {"no 0", "no 9"}


@pytest.mark.parametrize("skips", [False, True])
def test_what_is_no_pair_is_named_and_an_error_unless_it_may_be_left_out(
    skips, captioned, tmp_path, capsys
):
    rows = [("cat/99.jpg", "gone"), ("cat/01.jpg", ""), ("cat/01.jpg", "no 1")]
    config = captioned(*rows, skip_unreadable=skips)
    assert _check(config, tmp_path / "run") == (0 if skips else 2)
    report = capsys.readouterr().err
    assert "train: 10 pairs" in report
    assert "left out, not a pair: a text without its image: cat/99.jpg in line 1" in report
    assert report.count("an empty text: ") == report.count("a repeated pair: ") == 2  # splits
    assert ("error: 6 texts or images are not pairs" in report) != skips
    assert (tmp_path / "run" / "figures" / "pairs.png").is_file()


@pytest.mark.parametrize(
    ("count", "broken", "skips"),
    [(50, range(0, 50, 2), False), (5, range(5), False), (5, [4], True)],
)
def test_unreadable_images_are_named_and_counted(
    count, broken, skips, config_file, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(check_data, "MIN_FOR_WORKERS", 0)
    monkeypatch.setattr(check_data, "_SECONDS_OF_SUPPLY", 0.2)
    images = _images(tmp_path / "images", count, broken)
    config = config_file(images, skip_unreadable=skips)
    assert _check(config, tmp_path / "run") == (0 if skips else 2)
    report = capsys.readouterr().err
    named = re.findall(r"unreadable: .*/train/\w+/(\d\d)\.jpg: .*truncated", report)
    assert sorted(named) == [f"{i:02}" for i in broken][:20]
    assert ("unreadable: and 5 more" in report) == (len(broken) == 25)
    assert (f"error: {len(broken)} images cannot be read (in " in report) != skips
    assert (tmp_path / "run" / "figures" / "contact_sheet.png").is_file() == (len(broken) < count)
    supply = re.search(
        r"this host supplies (\d+) training images per second, by one thread", report
    )
    assert (supply is not None and int(supply[1]) > 0) == skips


@pytest.mark.parametrize(
    ("needed", "verdict"),
    [
        (0.5, "enough for v5e:2x2: a host needs 0 images per second, this host supplies "),
        (1e9, "not enough for v5e:2x2, updates would wait 100% of their time: a host needs "),
        (None, "v5e:2x2: the demand was not measured"),
    ],
)
def test_the_supply_of_this_host_is_compared_with_the_demand_of_a_slice(
    needed, verdict, config_file, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(check_data, "MIN_FOR_WORKERS", 0)
    monkeypatch.setattr(check_data, "_SECONDS_OF_SUPPLY", 0.2)
    target = compile.CompileTarget("v5e:2x2", [], "tpu", 1.0, {}, 4)
    monkeypatch.setattr(compile, "find", {"v5e:2x2": target}.__getitem__)
    monkeypatch.setattr(
        compile, "compile_step", lambda config, to: compile.Verdict(True, needed, "")
    )
    arguments = small.flags(config_file(_images(tmp_path / "images")), tmp_path / "run")
    assert command_line.main([*arguments, "--mode=check_data", "--slice=v5e:2x2"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "v5e:2x2" in line]
    assert len(lines) == 1
    assert lines[0].startswith(verdict)


def test_a_host_that_is_too_slow_by_half_needs_twice_the_cores():
    """A closed form."""
    bounded = compile.Verdict(True, 2000.0, "at most ")
    words = check_data.comparison(1000.0, bounded, "h100:1")
    assert "wait at most 50% of their time: a host needs at most 2,000 images per second" in words
    assert "supplies 1,000; use hosts with at most 2.0 times the cores" in words
    estimated = bounded._replace(bound="")
    assert "use hosts with 2.0 times" in check_data.comparison(1000.0, estimated, "v5e:1")
    assert check_data.comparison(2000.0, bounded, "h100:1").startswith("enough")
    assert check_data.comparison(None, bounded, "h100:1").endswith("supplies was not measured")


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (20, "reached"),
        (21, "training.batch_size must be at most 20, the training examples of image_folder, got"),
    ],
)
def test_a_batch_has_at_most_the_training_examples(
    size, message, config_file, tmp_path, monkeypatch, capsys
):
    def end(*_):
        raise UserError("reached")

    monkeypatch.setattr(train, "_start", end)
    config = config_file(_images(tmp_path / "images"))
    arguments = small.flags(config, tmp_path / "run", training__batch_size=size)
    assert command_line.main(arguments) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {message}")


@pytest.mark.parametrize("count", [0, 3])
def test_a_run_says_how_many_images_may_be_transparent(
    count, config_file, tmp_path, monkeypatch, capsys
):
    def end(*_):
        raise UserError("reached")

    monkeypatch.setattr(train, "_start", end)
    images = _images(tmp_path / "images")
    for path in sorted((images / "train" / "cat").glob("*.jpg"))[:count]:
        Image.open(path).convert("RGBA").save(path.with_suffix(".png"))
        path.unlink()
    arguments = small.flags(config_file(images), tmp_path / "run")
    assert command_line.main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "error: reached"
    said = [line for line in lines if "may be transparent" in line]
    assert [line.split()[0] for line in said] == ["3"] * (count > 0)


def _odd_images(folder):
    """Images of 12 odd kinds."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
    plain, grey = Image.fromarray(colours), Image.fromarray(colours[..., 0])
    clear = plain.convert("RGBA")
    clear.putalpha(Image.new("L", plain.size, 0))
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    folder.mkdir(parents=True)
    clear.save(folder / "transparent.png")
    Image.fromarray(np.full((40, 40), 32896, np.uint16)).save(folder / "deep.png")
    plain.convert("CMYK").save(folder / "cmyk.jpg")
    plain.convert("P").save(folder / "palette.png")
    plain.save(folder / "animated.gif", save_all=True, append_images=[grey.convert("RGB")])
    plain.crop((0, 0, 1, 1)).save(folder / "pixel.png")
    plain.resize((4200, 4200)).save(folder / "huge.png")
    plain.save(folder / "turned.jpg", exif=turned)
    grey.save(folder / "grey.png")
    plain.save(folder / "cut.jpg")
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:-200])
    plain.save(folder / "suffix.jpg", "png")
    (folder / "empty.png").write_bytes(b"")
    for index in range(4):
        plain.save(folder / f"usual{index}.png")


def test_every_odd_image_is_mended_and_counted_or_named(config_file, tmp_path, capsys):
    for split in ("train", "val"):
        _odd_images(tmp_path / "images" / split / "all")
    config = config_file(tmp_path / "images", skip_unreadable=True, num_classes=1, image_size=32)
    assert _check(config, tmp_path / "run") == 0
    report = capsys.readouterr().err
    facts = re.findall(r"^train: (\d+) images are (.*)$", report, re.MULTILINE)
    assert {fact: int(count) for count, fact in facts} == {
        "transparent, composited over white": 1,
        "16-bit, scaled to 8 bits": 1,
        "CMYK, converted": 1,
        "with a palette, converted": 2,  # a GIF, too
        "animated, first frame taken": 1,
        "smaller than 32 pixels, enlarged": 1,
        "larger than 16 million pixels, reduced": 1,
        "turned upright by EXIF": 1,
        "grey among colours": 3,  # the 16-bit and the transparent one, too
        "not of the format that the name says": 1,
    }
    assert re.search(r"unreadable: .*train/all/cut\.jpg: .*truncated", report)
    assert re.search(r"unreadable: .*train/all/empty\.png: it is empty", report)
    examples = data.load(small.config(config).data, "train")
    names = [Path(examples.images.source.name(row)).stem for row in range(len(examples.labels))]
    read = {name: examples.images[row] for row, name in enumerate(names) if "cut" not in name}
    assert (read["transparent"] == 255).all()
    assert (read["deep"] == 128).all()
    assert (read["pixel"] == read["pixel"][0, 0]).all()
    np.testing.assert_array_equal(read["suffix"], read["usual0"])
    upright = np.rot90(read["usual0"], -1).astype(int)
    assert np.abs(read["turned"] - upright).mean() < 30  # JPEG's own error on noise
    assert np.ptp(read["grey"], axis=-1).max() == 0
