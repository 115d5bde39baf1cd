"""The FID InceptionV3 in plain NumPy, float64, NCHW, from weights by their names in PyTorch.

An independent reading of the architecture to hold the Flax network against: every convolution is
a sum over shifted images, every pool a loop over shifts.
"""

import itertools

import numpy as np

# Branch: output channels, input channels (0: of the block), kernel height and width.
STEM = "1a_3x3 32 3 3 3, 2a_3x3 32 32 3 3, 2b_3x3 64 32 3 3, 3b_1x1 80 64 1 1, 4a_3x3 192 80 3 3"
BLOCK_A = (
    "1x1 64 0 1 1, 5x5_1 48 0 1 1, 5x5_2 64 48 5 5, 3x3dbl_1 64 0 1 1, 3x3dbl_2 96 64 3 3, "
    "3x3dbl_3 96 96 3 3, _pool {0} 0 1 1"
)
BLOCK_B = "3x3 384 0 3 3, 3x3dbl_1 64 0 1 1, 3x3dbl_2 96 64 3 3, 3x3dbl_3 96 96 3 3"
BLOCK_C = (
    "1x1 192 0 1 1, 7x7_1 {0} 0 1 1, 7x7_2 {0} {0} 1 7, 7x7_3 192 {0} 7 1, 7x7dbl_1 {0} 0 1 1, "
    "7x7dbl_2 {0} {0} 7 1, 7x7dbl_3 {0} {0} 1 7, 7x7dbl_4 {0} {0} 7 1, 7x7dbl_5 192 {0} 1 7, "
    "_pool 192 0 1 1"
)
BLOCK_D = (
    "3x3_1 192 0 1 1, 3x3_2 320 192 3 3, 7x7x3_1 192 0 1 1, 7x7x3_2 192 192 1 7, "
    "7x7x3_3 192 192 7 1, 7x7x3_4 192 192 3 3"
)
BLOCK_E = (
    "1x1 320 0 1 1, 3x3_1 384 0 1 1, 3x3_2a 384 384 1 3, 3x3_2b 384 384 3 1, 3x3dbl_1 448 0 1 1, "
    "3x3dbl_2 384 448 3 3, 3x3dbl_3a 384 384 1 3, 3x3dbl_3b 384 384 3 1, _pool 192 0 1 1"
)
BLOCKS = [  # name, branches, input channels, and the number that differs
    ("5b", BLOCK_A, 192, 32), ("5c", BLOCK_A, 256, 64), ("5d", BLOCK_A, 288, 64),
    ("6a", BLOCK_B, 288, 0), ("6b", BLOCK_C, 768, 128), ("6c", BLOCK_C, 768, 160),
    ("6d", BLOCK_C, 768, 160), ("6e", BLOCK_C, 768, 192), ("7a", BLOCK_D, 768, 0),
    ("7b", BLOCK_E, 1280, 0), ("7c", BLOCK_E, 2048, 0),
]  # fmt: skip
CONVOLUTIONS = {}  # shapes of kernels by name
for _prefix, _branches, _inputs, _number in [
    ("Conv2d_", STEM, 0, 0), *((f"Mixed_{name}.branch", *rest) for name, *rest in BLOCKS)
]:  # fmt: skip
    for _branch in _branches.format(_number).split(", "):
        _name, *_shape = _branch.split()
        CONVOLUTIONS[_prefix + _name] = tuple(int(size) or _inputs for size in _shape)


def random_state():
    """A state dict of the network, float32, in PyTorch's names."""
    rng, state = np.random.default_rng(0), {}

    def drawn(shape, low, high):
        return rng.uniform(low, high, shape).astype(np.float32)

    for name, shape in CONVOLUTIONS.items():
        bound = np.sqrt(6 / np.prod(shape[1:]))  # keeps the size of what passes through
        state[f"{name}.conv.weight"] = drawn(shape, -bound, bound)
        for part, middle, width in (
            ("weight", 1, 0.2), ("bias", 0, 0.2), ("running_mean", 0, 0.2), ("running_var", 1, 0.5)
        ):  # fmt: skip
            state[f"{name}.bn.{part}"] = drawn(shape[:1], middle - width, middle + width)
        state[f"{name}.bn.num_batches_tracked"] = np.array(0, np.int64)
    state["fc.weight"], state["fc.bias"] = drawn((1008, 2048), -0.05, 0.05), drawn((1008,), -1, 1)
    return state


class Oracle:
    """Runs the network on images and remembers what every layer gave, by its name."""

    def __init__(self, state):
        self.state = {name: value.astype(np.float64) for name, value in state.items()}
        self.layers = {}

    def __call__(self, x):
        """Pool features (b, 2048) of images (b, 3, h, w) in [-1, 1)."""
        x = self.unit(x, "Conv2d_1a_3x3", stride=2, padding=(0, 0))
        x = self.unit(x, "Conv2d_2a_3x3", padding=(0, 0))
        x = self.unit(x, "Conv2d_2b_3x3", padding=(1, 1))
        x = max_pool(x, stride=2, padding=0)
        x = self.unit(x, "Conv2d_3b_1x1")
        x = self.unit(x, "Conv2d_4a_3x3", padding=(0, 0))
        x = max_pool(x, stride=2, padding=0)
        for block in ("5b", "5c", "5d"):
            x = self.block_a(x, f"Mixed_{block}")
        x = self.block_b(x)
        for block in ("6b", "6c", "6d", "6e"):
            x = self.block_c(x, f"Mixed_{block}")
        x = self.block_d(x)
        x = self.block_e(x, "Mixed_7b", average_pool(x))
        x = self.block_e(x, "Mixed_7c", max_pool(x, stride=1, padding=1))
        return x.mean(axis=(2, 3))

    def unit(self, x, name, stride=1, padding=None):
        kernel = self.state[f"{name}.conv.weight"]
        if padding is None:
            padding = (kernel.shape[2] // 2, kernel.shape[3] // 2)
        x = convolve(x, kernel, stride, padding)
        weight, bias, mean, variance = (
            self.state[f"{name}.bn.{part}"][:, None, None]
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        x = (x - mean) / np.sqrt(variance + 0.001) * weight + bias
        self.layers[name] = np.where(x > 0, x, 0.0)
        return self.layers[name]

    def block_a(self, x, name):
        five = self.unit(self.unit(x, f"{name}.branch5x5_1"), f"{name}.branch5x5_2")
        three = self.unit(self.unit(x, f"{name}.branch3x3dbl_1"), f"{name}.branch3x3dbl_2")
        three = self.unit(three, f"{name}.branch3x3dbl_3")
        pool = self.unit(average_pool(x), f"{name}.branch_pool")
        return np.concatenate([self.unit(x, f"{name}.branch1x1"), five, three, pool], axis=1)

    def block_b(self, x):
        three = self.unit(x, "Mixed_6a.branch3x3", stride=2, padding=(0, 0))
        double = self.unit(self.unit(x, "Mixed_6a.branch3x3dbl_1"), "Mixed_6a.branch3x3dbl_2")
        double = self.unit(double, "Mixed_6a.branch3x3dbl_3", stride=2, padding=(0, 0))
        return np.concatenate([three, double, max_pool(x, stride=2, padding=0)], axis=1)

    def block_c(self, x, name):
        seven, double = x, x
        for i in (1, 2, 3):
            seven = self.unit(seven, f"{name}.branch7x7_{i}")
        for i in (1, 2, 3, 4, 5):
            double = self.unit(double, f"{name}.branch7x7dbl_{i}")
        pool = self.unit(average_pool(x), f"{name}.branch_pool")
        return np.concatenate([self.unit(x, f"{name}.branch1x1"), seven, double, pool], axis=1)

    def block_d(self, x):
        three = self.unit(x, "Mixed_7a.branch3x3_1")
        three = self.unit(three, "Mixed_7a.branch3x3_2", stride=2, padding=(0, 0))
        seven = x
        for i in (1, 2, 3):
            seven = self.unit(seven, f"Mixed_7a.branch7x7x3_{i}")
        seven = self.unit(seven, "Mixed_7a.branch7x7x3_4", stride=2, padding=(0, 0))
        return np.concatenate([three, seven, max_pool(x, stride=2, padding=0)], axis=1)

    def block_e(self, x, name, pooled):
        three = self.unit(x, f"{name}.branch3x3_1")
        double = self.unit(self.unit(x, f"{name}.branch3x3dbl_1"), f"{name}.branch3x3dbl_2")
        return np.concatenate(
            [
                self.unit(x, f"{name}.branch1x1"),
                self.unit(three, f"{name}.branch3x3_2a"),
                self.unit(three, f"{name}.branch3x3_2b"),
                self.unit(double, f"{name}.branch3x3dbl_3a"),
                self.unit(double, f"{name}.branch3x3dbl_3b"),
                self.unit(pooled, f"{name}.branch_pool"),
            ],
            axis=1,
        )


def convolve(x, kernel, stride, padding):
    """Cross-correlation of (b, i, h, w) with (o, i, kh, kw), zeros around."""
    return sum(
        np.einsum("oi,bihw->bohw", kernel[:, :, i, j], part, optimize=True)
        for (i, j), part in _shifts(x, kernel.shape[2:], stride, padding, 0.0)
    )


def max_pool(x, stride, padding):
    parts = [part for _, part in _shifts(x, (3, 3), stride, (padding, padding), -np.inf)]
    return np.max(parts, axis=0)


def average_pool(x):
    """3x3 means that keep the size; padding is not counted."""
    total = sum(part for _, part in _shifts(x, (3, 3), 1, (1, 1), 0.0))
    return total / sum(part for _, part in _shifts(np.ones_like(x), (3, 3), 1, (1, 1), 0.0))


def _shifts(x, kernel, stride, padding, fill):
    """Offset (i, j) in the kernel and the pixels that lie there, for every position."""
    (height, width), (top, left) = kernel, padding
    padded = np.pad(x, ((0, 0), (0, 0), (top, top), (left, left)), constant_values=fill)
    rows = (padded.shape[2] - height) // stride + 1
    columns = (padded.shape[3] - width) // stride + 1
    for i, j in itertools.product(range(height), range(width)):
        bottom, right = i + stride * (rows - 1) + 1, j + stride * (columns - 1) + 1
        yield (i, j), padded[:, :, i:bottom:stride, j:right:stride]
