"""Random crops of encoded or decoded images on the host, resized to one size."""

import dataclasses
import math

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from lzn_jax.data.decoding import Size, decode, is_jpeg, jpeg_size

# A JPEG file may be decoded at 1/2, 1/4 or 1/8 of its size as long as crops stay this many times
# larger than the views. The views then change by less than one level of 255 on average.
_REDUCING_GAP = 2

Range = tuple[float, float]
Box = tuple[int, int, int, int]  # left, upper, right, lower, in pixels


def random_views(
    source: bytes | UInt8[np.ndarray, "h w c"],
    rng: np.random.Generator,
    size: int,
    *,
    channels: int,
    count: int = 2,
    area: Range = (0.08, 1.0),
    ratio: Range = (3 / 4, 4 / 3),
) -> UInt8[np.ndarray, "{count} size size {channels}"]:
    """Random resized crops of an image file or array; a file is decoded once for all crops.

    Each crop is a box drawn by `draw_box`, resized by antialiased linear interpolation: SimCLR's
    crop (arXiv:2002.05709, appendix A). A large JPEG file is decoded at a fraction of its size if
    all crops allow it. Raises UnreadableImageError as `decode`.
    """

    def draw_boxes(whole: Size) -> list[Box]:
        return [draw_box(rng, *whole, area=area, ratio=ratio) for _ in range(count)]

    if isinstance(source, bytes) and is_jpeg(source):
        whole = jpeg_size(source)
        boxes = draw_boxes(whole)
        image = decode(source, channels, _smallest_size(whole, boxes, size))
        scale = 2 ** round(math.log2(whole[0] / image.width))
    else:
        image = _from_array(source) if isinstance(source, np.ndarray) else decode(source, channels)
        boxes, scale = draw_boxes(image.size), 1
    return np.stack([_resize(image, box, size, scale) for box in boxes])


def _smallest_size(whole: Size, boxes: list[Box], size: int) -> Size:
    """Smallest size (width, height) at which to decode an image for views of `size` pixels."""
    smallest = min(min(right - left, lower - upper) for left, upper, right, lower in boxes)
    shrink = max(1.0, smallest / (_REDUCING_GAP * size))
    return math.ceil(whole[0] / shrink), math.ceil(whole[1] / shrink)


def draw_box(
    rng: np.random.Generator, width: int, height: int, *, area: Range, ratio: Range
) -> Box:
    """A random box inside an image, as documented for torchvision's RandomResizedCrop.

    `area`, the share of the image's area, is uniform, `ratio`, width / height, log-uniform, and the
    position uniform over whole pixels. A box that does not fit is drawn again. After ten failures
    the result is the largest central box whose ratio is in range.
    """
    for _ in range(10):
        box_area = width * height * rng.uniform(*area)
        box_ratio = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(box_area * box_ratio)), round(math.sqrt(box_area / box_ratio))
        if 0 < w <= width and 0 < h <= height:
            left = int(rng.integers(width - w + 1))
            upper = int(rng.integers(height - h + 1))
            return left, upper, left + w, upper + h
    w = min(width, round(height * ratio[1]))
    h = min(height, round(width / ratio[0]))
    left, upper = (width - w) // 2, (height - h) // 2
    return left, upper, left + w, upper + h


def _from_array(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def _resize(image: Image.Image, box: Box, size: int, scale: int) -> np.ndarray:
    """Pixels (size, size, c) of a box, given in pixels of the image enlarged `scale` times."""
    left, upper, right, lower = (edge / scale for edge in box)
    x, y = math.floor(left), math.floor(upper)
    # Cropping comes first, because `resize` alone would use pixels outside the box.
    image = image.crop((x, y, math.ceil(right), math.ceil(lower)))
    inner = (left - x, upper - y, right - x, lower - y)
    resized = image.resize((size, size), Image.Resampling.BILINEAR, box=inner)
    return np.asarray(resized).reshape(size, size, -1)


@dataclasses.dataclass(frozen=True)
class Views:
    """Transform to {name: (count, h, w, c)}: random crops of one image."""

    image_size: int
    channels: int
    min_area: float
    name: str = "views"
    count: int = 2

    def __call__(
        self, image: bytes | np.ndarray, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        area = (self.min_area, 1.0)
        crops = random_views(
            image, rng, self.image_size, channels=self.channels, count=self.count, area=area
        )
        return {self.name: crops}
