"""Words that texts have in common, by hand."""

import pytest

from lzn_jax.evaluation.caption_quality import agreement, words_in_common


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


def test_a_text_is_exact_as_it_is_to_the_letter():
    found = agreement(["red heart", "Red heart", "dog", ""], ["red heart", "red heart", "cat", "a"])
    assert found == {"image_to_text_exact": 0.25, "image_to_text_words": 0.5}
