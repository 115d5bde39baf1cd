"""Retrieval, against a loop over pairs, and against zones that are known."""

import types

import numpy as np
import pytest
import small

from lzn_jax import plots
from lzn_jax.data import Examples
from lzn_jax.evaluation import texts as texts_module
from lzn_jax.evaluation.texts import incidence, pairs, recalls


def by_loops(queries, candidates, names, k):
    found = 0
    for query, name in zip(queries, names, strict=True):
        cosines = [query @ c / np.sqrt((query @ query) * (c @ c)) for c in np.float64(candidates)]
        best = max(s for s, other in zip(cosines, names, strict=True) if other == name)
        better = sum(s > best for s, other in zip(cosines, names, strict=True) if other != name)
        found += better < k
    return found / len(names)


def test_recall_is_that_of_a_loop():
    rng = np.random.default_rng(0)
    queries = rng.normal(size=(60, 8))
    candidates = 3 * (queries + 1.5 * rng.normal(size=queries.shape))
    names = np.array([f"text {i // 2}" for i in range(60)])  # two images a text
    found = recalls(queries, candidates, incidence(names), incidence(names))
    assert found == {k: pytest.approx(by_loops(queries, candidates, names, k)) for k in (1, 10)}
    assert 0 < found[1] < found[10] < 1


def test_what_is_alike_or_not_a_number_finds_nothing():
    names = incidence(np.arange(30))
    for made in (np.ones((30, 4)), np.full((30, 4), np.nan)):
        assert recalls(made, made, names, names) == {1: 0.0, 10: 0.0}


def test_many_queries_are_ranked_in_parts(monkeypatch):
    monkeypatch.setattr("lzn_jax.evaluation.texts._ROWS_AT_A_TIME", 7)
    x = np.random.default_rng(0).normal(size=(20, 8))
    assert recalls(x, x, incidence(np.arange(20)), incidence(np.arange(20))) == {1: 1.0, 10: 1.0}


@pytest.mark.parametrize("texts_an_image", [1, 2, 5, 14])
def test_images_with_several_texts_are_counted_once_and_any_of_their_texts_is_right(
    texts_an_image, measured
):
    """A perfect encoder finds all partners; a random one finds what counting says."""
    count, k = 400, texts_an_image
    ids = np.random.default_rng(3).permutation(np.repeat(5 * np.arange(count), k))  # any order
    texts = np.array([f"text {i}" for i in range(count * k)])
    examples = Examples(ids[:, None, None, None], np.zeros(count * k, int), texts, image_ids=ids)
    rows, _, _ = pairs(examples, texts)
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


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """A function of known embeddings and examples: metrics, and rows of the picture."""

    def call(test, **known):
        drawn = []
        monkeypatch.setattr(plots, "retrieval", lambda path, rows: drawn.extend(rows))
        monkeypatch.setattr(texts_module, "embedded", lambda model, _, source: known[source])
        images = types.SimpleNamespace(samples=lambda test: test.images, shown=np.asarray)
        texts = types.SimpleNamespace(samples=lambda test: test.texts)
        space = types.SimpleNamespace(types={"image": images, "text": texts})
        model = small.stand_in(space=space, main_type="image")
        return texts_module.measure_retrieval(model, test, tmp_path / "unused.png"), drawn

    return call


def test_each_way_has_its_own_recall(measured):
    rng = np.random.default_rng(1)
    images = rng.normal(size=(40, 6))
    names = images + np.abs(rng.normal(size=(40, 6)))  # leaning to one side: a few are hubs
    texts = np.array([f"text {i}" for i in range(40)])
    pictures = np.zeros((40, 1, 1, 1), np.uint8)
    found, _ = measured(Examples(pictures, np.zeros(40, int), texts), image=images, text=names)
    ways = {"image_to_text": (images, names), "text_to_image": (names, images)}
    for way, pair in ways.items():
        for k in (1, 10):
            assert found[f"retrieval_{way}_r{k}"] == pytest.approx(by_loops(*pair, texts, k))
    assert found["retrieval_image_to_text_r1"] != found["retrieval_text_to_image_r1"]


def test_the_picture_shows_the_nearest_and_frames_the_own(measured):
    angles = np.array([0.0, 1.0, 2.0])
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    turned = circle[[0, 2, 1]]  # images 1 and 2 lie where the texts of each other do
    images = np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1)
    test = Examples(images, np.zeros(3, np.int32), np.array(["a", "b", "c"], object))
    _, drawn = measured(test, image=circle, text=turned)
    seen = [
        (str(int(q.item())) if i < 3 else q, there, own) for i, (q, there, own) in enumerate(drawn)
    ]
    assert seen[:3] == [
        ("0", ["a", "c", "b"], [True, False, False]),
        ("1", ["c", "a", "b"], [False, False, True]),
        ("2", ["b", "c", "a"], [False, True, False]),
    ]
    assert [q for q, *_ in seen[3:]] == ["a", "b", "c"]
    assert [[int(image.item()) for image in there] for _, there, _ in seen[3:]] == [
        [0, 1, 2], [2, 1, 0], [1, 0, 2],
    ]  # fmt: skip
