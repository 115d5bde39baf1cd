"""Writes tests/golden/inception.npz: outputs of the oracle, float64, some numbers of each."""

from pathlib import Path

import inception_oracle
import numpy as np


def main():
    state = inception_oracle.random_state()
    oracle = inception_oracle.Oracle(state)
    images = inception_oracle.random_images(1, 139)[:, :, :107] / 128 - 1
    features = oracle(images.transpose(0, 3, 1, 2))
    spatial = oracle.layers["Mixed_6d.branch1x1"][:, :7].transpose(0, 2, 3, 1).reshape(1, -1)
    outputs = {"features": features, "spatial": spatial, "logits": features @ state["fc.weight"].T}
    strides = {"features": 64, "spatial": 9, "logits": 32}
    numbers = {name: outputs[name][0, ::stride] for name, stride in strides.items()}
    strides = {f"{name}_stride": stride for name, stride in strides.items()}
    path = Path(__file__).parents[1] / "golden" / "inception.npz"
    np.savez(path, **numbers, **strides)


if __name__ == "__main__":
    main()
