"""Words that texts have in common, by hand."""

import types
from pathlib import Path

import numpy as np
import pytest
import small

from lzn_jax.data import Examples
from lzn_jax.evaluation import texts as texts_module
from lzn_jax.evaluation.texts import agreement, incidence, recalls, recognised, words_in_common
from lzn_jax.tokenizers import Bytes, Tokenizer


@pytest.mark.parametrize(
    ("written", "asked", "expected"),
    [
        ("red heart", "Red heart", 1.0),
        ("heart red", "red heart", 1.0),
        ("red red heart", "red heart", 0.8),  # precision 2/3, recall 1
        ("dog", "red heart", 0.0),
        ("", "red heart", 0.0),
    ],
)
def test_is_the_f1_of_words(written, asked, expected):
    assert words_in_common([written], [asked]) == pytest.approx(expected)
    assert words_in_common([written, "a"], [asked, "a"]) == pytest.approx((expected + 1) / 2)


@pytest.mark.parametrize(("name", "decoders"), [("image", ["image"]), ("sound", [])])
def test_texts_are_compared_as_the_runs_tokenizer_writes_them(monkeypatch, name, decoders):
    class Lower(Tokenizer):
        def decode(self, tokens):
            return [text.lower() for text in super().decode(tokens)]

    monkeypatch.setattr(texts_module, "recognised", lambda model, made, texts: {"made": len(made)})
    images = types.SimpleNamespace(samples=lambda test: test.images)
    texts = types.SimpleNamespace(samples=lambda test: test.texts)
    encoder = types.SimpleNamespace(tokenizer=Lower(Bytes(), 20))
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
    ("name", "expected"),
    [("image", ["retrieval", "digits"]), ("sound", ["retrieval", "quality"]), ("text", [])],
)
def test_captions_of_digits_are_measured_on_images_alone(monkeypatch, name, expected):
    types_of_run = {name: types.SimpleNamespace(is_images=name == "image")}
    model = small.stand_in(
        main_type=name,
        space=types.SimpleNamespace(types=types_of_run, decoders=["text"]),
        config=types.SimpleNamespace(data=types.SimpleNamespace(name="digits")),
    )
    monkeypatch.setattr(texts_module, "readable_rows", lambda model, test: np.arange(2))
    monkeypatch.setattr(texts_module, "figures_folder", lambda workdir, config: workdir)
    monkeypatch.setattr(texts_module, "measure_retrieval", lambda *_: {"retrieval": 1.0})
    monkeypatch.setattr(texts_module, "measure_writing", lambda *_: {"quality": 1.0})
    monkeypatch.setattr(texts_module, "DigitCaptions", lambda *_: lambda pairs: {"digits": 1.0})
    test = Examples(None, np.zeros(2, np.int32), np.array(["a", "b"]))
    assert list(texts_module.measure(model, test, test, Path())) == expected


def test_made_images_look_for_their_texts_not_texts_for_them(monkeypatch):
    rng = np.random.default_rng(1)
    images = rng.normal(size=(40, 6))
    names = images + np.abs(rng.normal(size=(40, 6)))  # leaning to one side: a few are hubs
    known = {"image": images, "text": names}
    monkeypatch.setattr(texts_module, "embedded", lambda model, _, source: known[source])
    texts, model = [f"text {i}" for i in range(40)], small.stand_in(main_type="image")
    found = recognised(model, np.zeros((40, 1, 1, 1), np.uint8), texts)
    own = incidence(np.array(texts))
    there, back = (recalls(*pair, own, own) for pair in ((images, names), (names, images)))
    assert found == {f"text_to_image_r{k}": there[k] for k in (1, 10)}
    assert there[1] != back[1]


def test_a_text_is_exact_as_it_is_to_the_letter():
    found = agreement(["red heart", "Red heart", "dog", ""], ["red heart", "red heart", "cat", "a"])
    assert found == {"image_to_text_exact": 0.25, "image_to_text_words": 0.5}
