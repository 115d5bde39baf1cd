"""Checkpoints that the original wrote, converted: the original's numbers, and its bits again.

    python benchmarks/golden_checkpoints.py --golden=DIR

DIR holds the original's tiny checkpoints of the three case studies (`ckpt_*.pt`), what it computed
with them (`ckpt_*_io.npz`) and their hyperparameters (`params.json`). Each is read as
`lzn_jax.convert` reads it, and every stored output is computed again in float64, each stage from
the stored one before it. Prints the largest absolute deviation of each output, and how many arrays
of a file that is converted and written back (`--to-pt`) have the same bits. Exit code 1 where a
deviation is too large or bits differ.

Measured: at most 6e-12 in 31 outputs, 2e-3 with the adaptive solver; all bits the same.
"""

import argparse
import functools
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from lzn_jax import configuration, convert, models, zoning
from lzn_jax.data import to_uint8
from lzn_jax.losses import rectified_flow
from lzn_jax.losses.rectified_flow import Sampler
from lzn_jax.release import torch_files

TOLERANCE = 1e-9
# The original steps a whole batch at once, we each image by itself: the solver's own error.
ADAPTIVE = {"ema_gen_rk45_net64": 2e-3, "ema_inv_rk45_net64": 3e-3}

Check = tuple[str, Any]  # name of a stored output, and what we compute


def generative_config(path: str, params: dict[str, Any]) -> ConfigDict:
    """The config at `path` with the tiny networks that `params` describe."""
    model, config = params["config"]["model"], ConfigDict(configuration.load(path).to_dict())
    network = {
        "features": model["nf"],
        "channel_multipliers": tuple(model["ch_mult"]),
        "num_res_blocks": model["num_res_blocks"],
        "attention_resolutions": tuple(model["attn_resolutions"]),
        "fir": model["fir"],
        "progressive_input": model["progressive_input"],
    }
    config.encoder.update(network)
    config.decoder.update(network)
    config.encoder.tap_channels = params["num_base_channels"]
    config.encoder.tap_units = params["num_base_units"]
    config.encoder.tap_layers = params["num_latent_transformation_layers"]
    resolutions = params["latent_transformation_resolutions"]
    with config.ignore_type():
        config.encoder.tap_resolutions = resolutions and tuple(resolutions)
    config.decoder.progressive = model["progressive"]
    config.decoder.time_embedding = model["embedding_type"]
    config.decoder.fourier_scale = float(model["fourier_scale"])
    config.decoder.scale_by_sigma = model["scale_by_sigma"]
    config.data.image_size = params["config"]["data"]["image_size"]
    config.latent.dim = params["latent_dim"]
    config.training.ema_decay = params["ema_decay"]
    return config


def representation_config(path: str, params: dict[str, Any]) -> ConfigDict:
    """The config at `path` with the tiny ResNet that `params` describe."""
    config = ConfigDict(configuration.load(path).to_dict())
    config.encoder.stage_sizes = tuple(params["layers"])
    config.encoder.stage_widths = tuple(params["stage_widths"])
    config.encoder.stem_width = params["stem_channels"]
    config.encoder.head_layers = params["head_num_layers"]
    config.encoder.head_dim = config.latent.dim = params["head_out_dim"]
    config.data.image_size = 64
    config.training.ema_decay = params["ema_decay"]
    return config


CHECKPOINTS = {
    "ckpt_gen_fourier_tiny": (generative_config, "configs/afhq_cat_gen.py"),
    "ckpt_repr_tiny": (representation_config, "configs/imagenet_repr.py"),
    "ckpt_joint_tiny": (generative_config, "configs/cifar10_joint.py"),
}


class Original:
    """The original's inputs and outputs, and our networks with its weights, in float64."""

    def __init__(self, golden: Path, name: str, config: ConfigDict) -> None:
        self.config, self.params = config, _params(golden, name)
        with np.load(golden / f"{name}_io.npz") as file:
            self.stored = {key: _nhwc(array) for key, array in file.items()}
        self.modules = {
            key: module.clone(dtype=jnp.float64) if hasattr(module, "dtype") else module
            for key, module in models.build(config).items()
        }
        self.variables = {
            kind: jax.tree.map(
                lambda leaf: jnp.asarray(leaf, jnp.float64),
                convert.load_released(golden / f"{name}.pt", config, ema=kind == "ema"),
            )
            for kind in ("raw", "ema")
        }

    def __getitem__(self, name: str) -> jax.Array:
        """A stored array, numbers in float64."""
        array = self.stored[name]
        kind = jnp.float64 if np.issubdtype(array.dtype, np.floating) else jnp.int32
        return jnp.asarray(array, kind)

    def apply(self, kind: str, name: str, *inputs: Any, **settings: Any) -> jax.Array:
        """The output of a network with raw or averaged weights."""
        module = functools.partial(self.modules[name].apply, **settings)
        return _run(module, self.variables[kind][name], *inputs)

    def flow(self, solve: Any, sampler: str, start: jax.Array, condition: Any) -> jax.Array:
        """Images from noise or noise from images, with averaged weights."""
        decoder, settings = self.modules["decoder"], Sampler(sampler, 10)

        def call(variables, start, condition):
            def velocity(x, t, condition):
                return decoder.apply(variables, x, t, *condition, train=False)

            return solve(velocity, start, condition, settings).x

        return _run(call, self.variables["ema"]["decoder"], start, condition)


def _params(golden: Path, name: str) -> dict[str, Any]:
    params: dict[str, Any] = json.loads((golden / "params.json").read_text())[f"{name}_io"]
    return params["params"]


def _nhwc(array: np.ndarray) -> np.ndarray:
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array


def _run(function: Any, *inputs: Any) -> Any:
    # Runs once: compiling costs more than running.
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})(*inputs)


def representation_checks(original: Original) -> Iterator[Check]:
    """Features of both kinds of weights; latents."""
    for kind in ("raw", "ema"):
        for name, features in (("head", "head"), ("nohead", "backbone")):
            found = original.apply(kind, "encoder", original["x"], train=False, features=features)
            yield f"{kind}_{name}", found
    solver = zoning.Euler(int(original.stored["num_steps"]))
    anchors, noise = original["ema_head_f64"], original["eps"]
    yield "ema_latent", zoning.compute_latents(anchors, noise, solver=solver)
    yield "ema_latent_center", zoning.compute_latents(anchors, 0 * noise, solver=solver)


def generative_checks(original: Original) -> Iterator[Check]:
    """Networks of both kinds of weights; latents, classes, samples and their inverse."""
    has_labels = original.params["num_classes"] > 0

    def one_hot(name):
        return jax.nn.one_hot(original[name], 10, dtype=jnp.float64) if has_labels else None

    for kind in ("raw", "ema"):
        yield f"{kind}_encoder_out", original.apply(kind, "encoder", original["x"], train=False)
        inputs = [original[f"dec_{name}"] for name in ("xt", "t", "latent")]
        labels = one_hot("dec_labels")
        yield f"{kind}_decoder_out", original.apply(kind, "decoder", *inputs, labels, train=False)
        if has_labels:
            yield f"{kind}_label_anchor", original.apply(kind, "label_anchors")
    solver = zoning.DPMSolver(original.params["encoder_ode_num_steps"])
    anchors, latents = original["ema_encoder_out_f64"], original["ema_latent_f64"]
    yield "ema_latent", zoning.compute_latents(anchors, original["eps"], solver=solver)
    if has_labels:
        yield from classification_checks(original, latents)
    start, condition = original["gen_x0"], (original["ema_gen_latent_f64"], one_hot("gen_labels"))
    images = original.flow(rectified_flow.generate, "euler", start, condition)
    yield "ema_gen_euler10", images
    yield "ema_gen_euler10_uint8", to_uint8(images)
    labels = one_hot("labels")
    end, condition = original["x"][:4], (latents[:4], None if labels is None else labels[:4])
    yield "ema_inv_euler10", original.flow(rectified_flow.invert, "euler", end, condition)
    if "ema_gen_rk45_net64" in original.stored:
        latent = original["ema_gen_latent_f64"]
        adaptive = original.flow(rectified_flow.generate, "rk45", start, (latent, None))
        yield "ema_gen_rk45_net64", adaptive
        # The original ran both with the latents of its float32 chain.
        condition = (original["ema_latent_f32"][:4], None)
        yield "ema_inv_rk45_net64", original.flow(rectified_flow.invert, "rk45", end, condition)


def classification_checks(original: Original, latents: jax.Array) -> Iterator[Check]:
    """Latents of images to classes, and of classes to latents."""
    solver = zoning.Euler(original.params["label_ode_num_steps"])
    anchors, labels = original["ema_label_anchor_f64"], original["labels"]
    # The original rounds class fractions to float32.
    shares = np.bincount(original.stored["labels"], minlength=10) / len(labels)
    with np.errstate(divide="ignore"):
        log_shares = jnp.log(jnp.asarray(shares.astype(np.float32), jnp.float64))
    for suffix, weights in (("", None), ("_weighted", log_shares)):
        options = {"solver": solver, "log_weights": weights}
        yield f"ema_class_final{suffix}", zoning.decode(latents, anchors, **options)
        yield f"ema_class_pred{suffix}", zoning.classify(latents, anchors, **options)
        log_probs = zoning.assignment_log_probs(latents, anchors, labels, **options)
        yield f"ema_class_ownprob{suffix}", jnp.exp(log_probs)
    own = original["gen_labels"]
    found = zoning.compute_latents(anchors, original["gen_eps"], own, solver=solver)
    yield "ema_gen_latent", found


def check_outputs(golden: Path, name: str, config: ConfigDict) -> bool:
    """Prints a line for each stored output; whether all deviations are small."""
    with jax.enable_x64(True):
        original = Original(golden, name, config)
        is_generative = "decoder" in original.modules
        checks = generative_checks if is_generative else representation_checks
        good = True
        for key, found in checks(original):
            stored = original.stored[key if key in original.stored else f"{key}_f64"]
            difference = np.asarray(found, np.float64) - stored.astype(np.float64)
            deviation, tolerance = float(np.max(np.abs(difference))), ADAPTIVE.get(key, TOLERANCE)
            good &= deviation <= tolerance
            mark = "" if deviation <= tolerance else "  TOO LARGE"
            print(f"  {key:34s} {deviation:9.1e}  (at most {tolerance:.0e}){mark}", flush=True)
    return good


def check_bits(golden: Path, name: str, config: ConfigDict) -> bool:
    """Prints how many arrays of the file that is written back differ; whether none does."""
    file = golden / f"{name}.pt"
    with config.ignore_type():
        config.latent.context_size = 0
    with tempfile.TemporaryDirectory() as folder:
        workdir, back = Path(folder) / "run", Path(folder) / "back.pt"
        convert.convert(config, file, workdir)
        convert.export(config, workdir, back)
        wanted, found = (dict(_arrays(torch_files.read(path))) for path in (file, back))
    same = [
        place
        for place, array in wanted.items()
        if place in found and found[place].tobytes() == array.tobytes()
    ]
    print(f"  written back: {len(same)} of {len(wanted)} arrays have the same bits", flush=True)
    return len(same) == len(wanted) == len(found)


def _arrays(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Weights and averages of a file by place: all that is carried over."""
    if isinstance(value, np.ndarray):
        yield place, value
    elif isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            if key != "optimizer":
                yield from _arrays(item, (*place, key))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--golden", type=Path, required=True)
    golden = parser.parse_args().golden
    good = True
    for name, (config_of, path) in CHECKPOINTS.items():
        print(name, flush=True)
        config = config_of(path, _params(golden, name))
        good &= check_outputs(golden, name, config)
        good &= check_bits(golden, name, config)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
