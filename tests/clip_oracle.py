"""CLIP's image side in plain NumPy, float64, from weights by their names at Hugging Face.

An independent reading to hold the Flax network against: patches are cut out by slicing, every head
and every image is a loop of its own, and Pillow resizes.
"""

import numpy as np
from PIL import Image

HIDDEN, FEATURES, LAYERS, WIDTH, PATCH, SIZE = 192, 16, 2, 128, 4, 8
TEXT = {  # what a whole CLIP holds besides, in the file's order
    "logit_scale": np.float32(4.6),
    "text_model.embeddings.position_ids": np.arange(3)[None],
    "text_model.final_layer_norm.weight": np.ones(5, np.float32),
    "vision_model.embeddings.position_ids": np.arange(5)[None],
    "text_projection.weight": np.ones((4, 5), np.float32),
}


def shapes():
    layer = {
        **{f"self_attn.{p}_proj.weight": (WIDTH, WIDTH) for p in ("k", "v", "q", "out")},
        **{f"self_attn.{p}_proj.bias": (WIDTH,) for p in ("k", "v", "q", "out")},
        "mlp.fc1.weight": (HIDDEN, WIDTH),
        "mlp.fc1.bias": (HIDDEN,),
        "mlp.fc2.weight": (WIDTH, HIDDEN),
        "mlp.fc2.bias": (WIDTH,),
        **{f"layer_norm{i}.{leaf}": (WIDTH,) for i in (1, 2) for leaf in ("weight", "bias")},
    }
    return {
        "vision_model.embeddings.class_embedding": (WIDTH,),
        "vision_model.embeddings.patch_embedding.weight": (WIDTH, 3, PATCH, PATCH),
        "vision_model.embeddings.position_embedding.weight": ((SIZE // PATCH) ** 2 + 1, WIDTH),
        **{
            f"vision_model.{norm}.{leaf}": (WIDTH,)
            for norm in ("pre_layrnorm", "post_layernorm")
            for leaf in ("weight", "bias")
        },
        **{
            f"vision_model.encoder.layers.{i}.{name}": shape
            for i in range(LAYERS)
            for name, shape in layer.items()
        },
        "visual_projection.weight": (FEATURES, WIDTH),
    }


def random_state(seed=0):
    """Tensors of the vision side, float32, drawn so that each of them matters."""
    rng = np.random.default_rng(seed)
    state = {}
    for name, shape in shapes().items():
        spread = 1.5 / np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 0.3
        if "position" in name:
            spread = 0.5
        mean = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        state[name] = rng.normal(mean, spread, shape).astype(np.float32)
    return state


def images(count, seed=0, size=SIZE):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def embeddings(state, pixels):
    """Embeddings (b, d) of uint8 images (b, h, w, 3)."""
    weights = {
        name.removeprefix("vision_model."): value.astype(np.float64)
        for name, value in state.items()
    }
    return np.stack([_embedding(weights, image) for image in pixels])


def _embedding(weights, image):
    resized = np.asarray(Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    x = resized.astype(np.float64) / 255
    x = (x - [0.48145466, 0.4578275, 0.40821073]) / [0.26862954, 0.26130258, 0.27577711]
    tokens = [weights["embeddings.class_embedding"]]
    for top in range(0, SIZE, PATCH):
        for left in range(0, SIZE, PATCH):
            patch = x[top : top + PATCH, left : left + PATCH].transpose(2, 0, 1)
            kernel = weights["embeddings.patch_embedding.weight"]
            tokens.append(kernel.reshape(WIDTH, -1) @ patch.ravel())
    x = np.stack(tokens) + weights["embeddings.position_embedding.weight"]
    x = _norm(weights, "pre_layrnorm", x)
    for i in range(LAYERS):
        layer = f"encoder.layers.{i}"
        x = x + _attention(weights, layer, _norm(weights, f"{layer}.layer_norm1", x))
        hidden = _linear(weights, f"{layer}.mlp.fc1", _norm(weights, f"{layer}.layer_norm2", x))
        x = x + _linear(weights, f"{layer}.mlp.fc2", hidden / (1 + np.exp(-1.702 * hidden)))
    first = weights["visual_projection.weight"] @ _norm(weights, "post_layernorm", x)[0]
    return first / np.sqrt(np.sum(first**2))


def _attention(weights, layer, x):
    query, key, value = (_linear(weights, f"{layer}.self_attn.{part}_proj", x) for part in "qkv")
    heads = []
    for start in range(0, WIDTH, 64):
        head = slice(start, start + 64)
        scores = np.exp(query[:, head] @ key[:, head].T / 8)
        heads.append(scores / scores.sum(axis=1, keepdims=True) @ value[:, head])
    return _linear(weights, f"{layer}.self_attn.out_proj", np.concatenate(heads, axis=1))


def _linear(weights, name, x):
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def _norm(weights, name, x):
    centred = x - x.mean(axis=1, keepdims=True)
    x = centred / np.sqrt(np.mean(centred**2, axis=1, keepdims=True) + 1e-5)
    return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]
