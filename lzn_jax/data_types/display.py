"""How samples of a data type are read from users and shown to them."""

from collections.abc import Callable
from typing import Any

from lzn_jax.data_types.protocols import Samples
from lzn_jax.errors import UserError


def are_images(shown: object) -> bool:
    """Whether the output of `DataType.shown` is an array of images, not strings."""
    return len(getattr(shown, "shape", ())) == 4


class Displayed:
    """Samples of one kind on the command line, in figures, on the page and in exports.

    This is the base class of `DataType`, which adds the members of training and inference.
    """

    plural = ""  # name of several samples; "": `name`, with an s unless it ends in one
    example: str | None = None  # --input of the suggested commands; None: they use test samples
    # Gradio's components of one sample on the page. The argument of the first is its initial value.
    # None means a line of text, and the output of `shown`.
    input_component: Callable[[Any], Any] | None = None
    output_component: Callable[[], Any] | None = None

    checked: Callable[[Samples], Samples]  # validates samples of a user, as `DataType.checked`

    def __init__(self, name: str) -> None:
        self.name = name
        self.plural = self.plural or f"{name.removesuffix('s')}s"

    def parse(self, text: str) -> Samples:
        """Samples from the value of `--input`. Raises UserError for an invalid value."""
        raise UserError(f"--input does not support {self.name} samples")

    def written(self, value: Any) -> Samples:
        """Samples from the value of `input_component`, such as text. Reads no file."""
        return self.parse(value)

    def named(self, text: str) -> tuple[Samples, list[str]]:
        """Samples from the value of `--input`, and the file or text of each as its name."""
        samples = self.checked(self.parse(text))
        return samples, [name or text for name in self.names(samples)]

    def names(self, samples: Samples) -> list[str]:
        """Name of each sample in tables: the output of `shown`, empty for images."""
        if are_images(self.shown(samples[:1])):
            return [""] * len(samples)
        return list(self.shown(samples))

    def shown(self, samples: Samples) -> Samples:
        """Samples in figures and the demo: images (n, h, w, c) uint8, or a string for each."""
        if type(self).draw is Displayed.draw:
            return [str(sample) for sample in samples]
        from lzn_jax.plots import sheets  # only figures need matplotlib

        return sheets.drawn(self.draw, samples)

    def draw(self, sample: Any, axes: Any) -> None:
        """Draws a sample into axes of matplotlib, for a type without its own `shown`."""

    def displayed(self, samples: Samples) -> Samples:
        """Value of a component of the page for each sample."""
        return self.shown(samples)

    def words(self, samples: Samples) -> list[str]:
        """Words of samples, by default none. The demo reports words that training lacks."""
        return []

    def sample_format(self) -> dict[str, object]:
        """Meaning of rows of `encoded` and of the decoder's outputs, as JSON, for `--mode=export`.

        `description` is a sentence. A `vocabulary` is written to a file of its own.
        """
        return {"description": "what its encoder reads and its decoder returns"}
