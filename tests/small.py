"""Shipped configs shrunk to seconds: the same classes with smaller numbers."""

import jax

from lzn_jax import configuration

JOINT = {
    "latent.dim": "4",
    "latent.num_steps": "4",
    "latent.context_size": "16",
    "alignment.num_steps": "4",
    "encoder.features": "4",
    "encoder.channel_multipliers": "(1,)",
    "encoder.tap_channels": "2",
    "encoder.tap_units": "8",
    "decoder.features": "4",
    "decoder.channel_multipliers": "(1,)",
    "training.batch_size": "15",  # odd: on one of the eight fake devices
    "training.num_steps": "2",
    "training.warmup_steps": "2",
    "training.log_every_steps": "1",
    "checkpoint.every_steps": "2",
    "evaluation.every_steps": "2",
    "evaluation.num_samples": "20",
    "evaluation.noise_scales": "(0.5,)",
    "evaluation.batch_sizes": "(7,)",
    "evaluation.context_sizes": "(3, 17)",
    "sampling.num_steps": "3",
}


def flags(config, workdir, **changes):
    """Command-line arguments for a shrunk run; a change's double underscore is a dot."""
    fields = JOINT | {name.replace("__", "."): str(value) for name, value in changes.items()}
    overrides = [f"--config.{name}={value}" for name, value in fields.items()]
    return [f"--config={config}", f"--workdir={workdir}", *overrides]


def config(path="configs/digits_joint.py", **changes):
    """The shrunk config itself."""
    arguments = flags(path, "unused", **changes)
    return configuration.load(path, [a.removeprefix("--config.") for a in arguments[2:]])


def shaken(state):
    """A train state away from its initial zeros, behind which dropout and gradients vanish."""
    leaves, structure = jax.tree.flatten(state.params)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    moved = [
        leaf + 0.1 * jax.random.normal(key, leaf.shape, leaf.dtype)
        for leaf, key in zip(leaves, keys, strict=True)
    ]
    return state.replace(params=jax.tree.unflatten(structure, moved))
