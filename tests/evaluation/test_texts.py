"""Captions of digits, texts and retrieval: by hand, against loops, and against known zones."""

import dataclasses
import types
from pathlib import Path

import numpy as np
import pytest
import small

from lzn_jax import plots
from lzn_jax.data import Examples, digit_captions
from lzn_jax.data_types import Context
from lzn_jax.evaluation import texts as texts_module
from lzn_jax.evaluation.texts import (
    DigitCaptions,
    agreement,
    incidence,
    pairs,
    recalls,
    recognised,
    total_variation,
)
from lzn_jax.tokenizers import of_bytes

ASKED = ["a bold seven leaning left", "a thin zero leaning right"]
WRITTEN = ["a bold seven leaning right", "a zero"]  # the first has digit and weight right
PARTS = {"digit": 0.5, "weight": 0.5, "lean": 0.0, "exact": 0.0}  # right among WRITTEN


def quality_of(found, **members):
    """Quality of a run that makes the same of everything; images are measured as captions."""
    quality = object.__new__(DigitCaptions)
    quality.model = types.SimpleNamespace(
        translate=lambda *_: found, generate=lambda *_: found, **members
    )
    quality.image, quality.label, quality._canonical = "image", "label", list
    quality.measured = digit_captions.parse
    return quality


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (["a", "a", "b", "c"], ["a", "b", "b", "d"], 0.5),
        (["a", "b"], ["a", "b", "a", "b"], 0),
        (["a"], ["b", "c"], 1),
    ],
)
def test_total_variation_by_hand(first, second, expected):
    assert total_variation(first, second) == pytest.approx(expected)


def test_each_task_is_compared_with_what_was_asked(monkeypatch):
    monkeypatch.setattr(DigitCaptions, "_from_prior", lambda self: {"prior": 1.0})
    monkeypatch.setattr(DigitCaptions, "_embedding", lambda self: {"probe": 1.0})
    test = Examples(np.array(ASKED), np.array([7, 0]), np.array(ASKED))
    expected = {f"image_to_text_{part}": share for part, share in PARTS.items()}
    expected |= {f"text_to_image_{part}": share for part, share in PARTS.items()}
    expected |= {f"real_image_{part}": 1.0 for part in PARTS}
    expected |= {"label_to_text_digit": 0.5, "prior": 1.0, "probe": 1.0}
    quality = quality_of(WRITTEN)
    assert quality(test) == expected
    quality.label = None
    del expected["label_to_text_digit"]
    assert quality(test) == expected


def test_texts_and_images_of_the_prior_are_captions_of_all_digits_and_fit_theirs():
    drawn = {"images": np.array(WRITTEN), "texts": np.arange(2)}
    quality = quality_of(
        [ASKED[1], "a zero", ASKED[1], ASKED[0]],
        config=small.config(evaluation__num_samples=2),
        draw=lambda count: drawn,
        context_samples=lambda name, numbers: ASKED,
    )
    quality._captions = [*ASKED, *ASKED]
    found = quality._from_prior()
    assert found["text_well_formed"] == 0.75
    assert found["text_total_variation"] == pytest.approx(0.25)
    assert {part: found[f"prior_image_{part}"] for part in PARTS} == PARTS


def test_a_probe_finds_what_anchors_tell_of_captions_that_it_did_not_see():
    rows = [(d, w, lean) for d in range(10) for w in range(3) for lean in range(3)]
    texts = digit_captions.compose(digit_captions.Parts(*np.array(rows).T))
    digits = np.eye(10)[[d for d, _, _ in rows]]
    leans = np.eye(3)[[lean for _, _, lean in rows]]  # and nothing of the weight
    anchors = np.concatenate([digits, leans], axis=1).astype(np.float32)
    bank = np.concatenate([anchors, np.full((2, 13), np.nan, np.float32)])
    log_weights = np.array([0.0] * 90 + [-np.inf] * 2)  # the last are absent
    context = {"text": Context(bank, log_weights)}
    quality = quality_of(
        None,
        model=types.SimpleNamespace(context=context),
        context_samples=lambda name, numbers: texts[numbers].tolist(),
    )
    found = quality._embedding()
    assert found["text_probe_digit"] == found["text_probe_lean"] == 1
    assert found["text_probe_weight"] < 0.5
    bank[3] = np.inf  # of a run that diverged
    assert quality._embedding() == {}


@pytest.mark.parametrize(
    ("written", "asked", "exact", "words"),
    [
        ("red heart", "red heart", 1, 1.0),
        ("red heart", "Red heart", 0, 1.0),
        ("heart red", "red heart", 0, 1.0),
        ("red red heart", "red heart", 0, 0.8),  # precision 2/3, recall 1
        ("dog", "red heart", 0, 0.0),
        ("", "red heart", 0, 0.0),
    ],
)
def test_texts_are_exact_to_the_letter_and_words_have_an_f1(written, asked, exact, words):
    found = agreement([written, "a"], [asked, "a"])
    expected = {"image_to_text_exact": (exact + 1) / 2, "image_to_text_words": (words + 1) / 2}
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(("name", "decoders"), [("image", ["image"]), ("sound", [])])
def test_texts_are_compared_as_the_runs_tokenizer_writes_them(monkeypatch, name, decoders):
    exact = of_bytes(20)
    lower = dataclasses.replace(exact, join=lambda rows: [t.lower() for t in exact.join(rows)])
    monkeypatch.setattr(texts_module, "recognised", lambda model, made, texts: {"made": len(made)})
    images = types.SimpleNamespace(samples=lambda test: test.images)
    texts = types.SimpleNamespace(samples=lambda test: test.texts)
    encoder = types.SimpleNamespace(tokenizer=lower)
    model = small.stand_in(
        main_type=name,
        space=types.SimpleNamespace(
            types={name: images, "text": texts}, encoders={"text": encoder}, decoders=decoders
        ),
        translate=lambda samples, source, target: ["red heart", "dog"],
    )
    images = np.zeros((2, 1, 1, 1), np.uint8)
    test = Examples(images, np.zeros(2, np.int32), np.array(["Red Heart", "Cat"], object))
    found = texts_module.measure_writing(model, test)
    made = {"made": 2} if decoders else {}  # without a decoder nothing is made of texts
    assert found == {f"{name}_to_text_exact": 0.5, f"{name}_to_text_words": 0.5} | made


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("image", "digits", ["retrieval", "digits"]),
        ("image", "cifar10", ["retrieval", "quality"]),
        ("sound", "digits", ["retrieval", "quality"]),
        ("text", "digits", []),
    ],
)
def test_captions_of_digits_are_measured_on_images_alone(monkeypatch, name, data, expected):
    types_of_run = {name: types.SimpleNamespace(is_images=name == "image")}
    model = small.stand_in(
        main_type=name,
        space=types.SimpleNamespace(types=types_of_run, decoders=["text"]),
        config=types.SimpleNamespace(data=types.SimpleNamespace(name=data)),
    )
    for function, stub in {
        "readable_rows": lambda model, test: np.arange(2),
        "measure_retrieval": lambda *_: {"retrieval": 1.0},
        "measure_writing": lambda *_: {"quality": 1.0},
        "DigitCaptions": lambda *_: lambda pairs: {"digits": 1.0},
    }.items():
        monkeypatch.setattr(texts_module, function, stub)
    test = Examples(None, np.zeros(2, np.int32), np.array(["a", "b"]))
    assert list(texts_module.measure(model, test, test, Path())) == expected


def by_loops(queries, candidates, is_right, k):
    """Share of queries with a right one among the first k of the sorted candidates."""
    found = 0
    for number, query in enumerate(queries):
        cosines = [query @ c / np.sqrt((query @ query) * (c @ c)) for c in np.float64(candidates)]
        nearest = sorted(range(len(candidates)), key=lambda place: -cosines[place])[:k]
        found += any(is_right(number, place) for place in nearest)
    return found / len(queries)


@pytest.mark.parametrize("rows", [7, 1024])
def test_recall_is_that_of_a_loop(rows, monkeypatch):
    monkeypatch.setattr(texts_module, "_ROWS_AT_A_TIME", rows)
    rng = np.random.default_rng(0)
    candidates = rng.normal(size=(60, 8))
    queries = 3 * (candidates[np.arange(90) % 60] + 1.5 * rng.normal(size=(90, 8)))
    right = [(q, (q + step) % 60) for q in range(90) for step in range(1 + q % 3)]
    found = recalls(queries, candidates, incidence(*np.array(right).T[::-1]))
    for k in (1, 10):
        expected = by_loops(queries, candidates, lambda *pair: pair in right, k)
        assert found[k] == pytest.approx(expected)
    assert 0 < found[1] < found[10] < 1


def test_what_is_alike_or_not_a_number_finds_nothing():
    each = incidence(np.arange(30), np.arange(30))
    for made in (np.ones((30, 4)), np.full((30, 4), np.nan)):
        assert recalls(made, made, each) == {1: 0.0, 10: 0.0}


@pytest.mark.parametrize(("count", "ranks"), [(1, []), (2, [1]), (10, [1]), (11, [1, 10])])
def test_ranks_that_cannot_miss_are_left_out(count, ranks):
    points = np.random.default_rng(0).normal(size=(count, 3))
    assert list(recalls(points, points, incidence(np.arange(count), np.arange(count)))) == ranks


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """A function of known embeddings and examples: metrics, and rows of the picture."""

    def call(test, **known):
        drawn = []
        monkeypatch.setattr(plots, "retrieval", lambda path, rows: drawn.extend(rows))

        def embedded(model, samples, source):
            assert len(samples) == len(known[source])
            return known[source]

        monkeypatch.setattr(texts_module, "embedded", embedded)

        def shown(images):
            assert len(images) <= 8  # a few, as drawing takes time
            return images

        images = types.SimpleNamespace(samples=lambda test: test.images, shown=shown)
        texts = types.SimpleNamespace(samples=lambda test: test.texts)
        space = types.SimpleNamespace(types={"image": images, "text": texts})
        model = small.stand_in(space=space, main_type="image")
        return texts_module.measure_retrieval(model, test, tmp_path / "unused.png"), drawn

    return call


@pytest.mark.parametrize("texts_an_image", [1, 2, 5, 14])
def test_images_with_several_texts_are_counted_once_and_any_of_their_texts_is_right(
    texts_an_image, measured
):
    """A perfect encoder finds all partners; a random one finds what counting says."""
    count, k = 400, texts_an_image
    ids = np.random.default_rng(3).permutation(np.repeat(5 * np.arange(count), k))  # any order
    texts = np.array([f"text {i:04}" for i in range(count * k)])
    examples = Examples(ids[:, None, None, None], np.zeros(count * k, int), texts, image_ids=ids)
    rows, *_ = pairs(examples, texts)
    assert sorted(ids[rows]) == (5 * np.arange(count)).tolist()
    points = np.random.default_rng(4).normal(size=(count, 8))
    perfect, _ = measured(examples, image=points[ids[rows] // 5], text=points[ids // 5])
    assert set(perfect.values()) == {1.0}

    drawn = np.random.default_rng(5)
    random, _ = measured(
        examples, image=drawn.normal(size=(count, 8)), text=drawn.normal(size=(count * k, 8))
    )
    for rank in (1, 10):
        none_found = np.prod([1 - k / (count * k - i) for i in range(rank)])
        expected = {"image_to_text": 1 - none_found, "text_to_image": rank / count}
        for way, share in expected.items():
            error = np.sqrt(share / count)  # texts of an image share its neighbours
            assert random[f"retrieval_{way}_r{rank}"] == pytest.approx(share, abs=4 * error)


@pytest.mark.parametrize("distinct", [6, 25])
def test_equal_texts_are_one_candidate_and_each_way_has_its_own_recall(
    distinct, measured, monkeypatch
):
    rng = np.random.default_rng(distinct)
    of_text, of_image = np.arange(80) % distinct, rng.permutation(np.arange(80) // 2)
    names = rng.normal(size=(distinct, 4)) + 0.5  # leaning to one side: a few are hubs
    first = [of_text[of_image == image][0] for image in range(40)]
    images = names[first] + rng.normal(size=(40, 4))
    texts = np.array([f"text {number:02}" for number in of_text])
    pictures = of_image[:, None, None, None]
    test = Examples(pictures, np.zeros(80, int), texts, image_ids=of_image)
    found, drawn = measured(test, image=images, text=names)
    told = {*zip(of_image.tolist(), of_text.tolist(), strict=True)}
    ways = {
        "image_to_text": (images, names, lambda image, text: (image, text) in told),
        "text_to_image": (names[of_text], images, lambda row, image: (image, of_text[row]) in told),
    }
    ranks = [("image_to_text", 10)] * (distinct > 10)
    ranks += [("image_to_text", 1), ("text_to_image", 1), ("text_to_image", 10)]
    expected = {f"retrieval_{way}_r{k}": by_loops(*ways[way], k) for way, k in ranks}
    assert found == pytest.approx(expected)
    assert len({*found.values()}) == len(found)
    for query, nearest, own in drawn:  # images, then texts
        pairs_shown = [
            (query, each) if isinstance(each, str) else (each, query) for each in nearest
        ]
        assert own == [(int(i.item()), int(t[5:])) in told for i, t in pairs_shown]

    made = rng.normal(size=(80, 4)) + names[of_text]

    def embedded(model, samples, source):
        assert len(samples) == (80 if source == "image" else distinct)
        return {"image": made, "text": names}[source]

    monkeypatch.setattr(texts_module, "embedded", embedded)
    found = recognised(small.stand_in(main_type="image"), made, list(texts))
    own = (made, names, lambda row, text: text == of_text[row])
    ranks = [k for k in (1, 10) if k < distinct]
    assert found == pytest.approx({f"text_to_image_r{k}": by_loops(*own, k) for k in ranks})


def test_the_picture_shows_the_nearest_and_frames_the_own(measured):
    angles = np.array([0.0, 1.0, 2.0])
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    turned = circle[[0, 2, 1]]  # images 1 and 2 lie where the texts of each other do
    images = np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1)
    test = Examples(images, np.zeros(3, np.int32), np.array(["a", "b", "c"], object))
    _, drawn = measured(test, image=circle, text=turned)
    assert [(int(q.item()), there, own) for q, there, own in drawn[:3]] == [
        (0, ["a", "c", "b"], [True, False, False]),
        (1, ["c", "a", "b"], [False, False, True]),
        (2, ["b", "c", "a"], [False, True, False]),
    ]
    assert [q for q, *_ in drawn[3:]] == ["a", "b", "c"]
    assert [[int(image.item()) for image in there] for _, there, _ in drawn[3:]] == [
        [0, 1, 2], [2, 1, 0], [1, 0, 2],
    ]  # fmt: skip
