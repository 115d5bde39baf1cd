"""Shipped configs shrunk to seconds: the same classes with smaller numbers."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lzn_jax import configuration, data, inference, loading, plan, plots, train
from lzn_jax.latent_space import LatentSpace
from lzn_jax.run import devices
from lzn_jax.run import workdir as workdirs
from lzn_jax.run.checkpoints import Checkpoints
from lzn_jax.trained_model import TrainedModel

# Metrics that differ between equal runs.
TIMINGS = {
    "steps_per_second",
    "seconds_per_step",
    "data_seconds_per_step",
    "examples_per_second",
    "evaluation_seconds",
}
# The smallest network that has the inputs and outputs of another.
SMALLEST = {
    "encoder__name": {"ncsnpp": "mlp"},
    "decoder__name": {"ncsnpp": "mlp", "direct": "direct_mlp", "mean_ncsnpp": "mean_mlp"},
}
# Of these fields a config takes those that it holds.
FIELDS = {
    "latent.dim": "4",
    "latent.solver": "euler",  # compiles faster
    "latent.num_steps": "4",
    "latent.context_size": "16",
    "alignment.solver": "euler",
    "alignment.num_steps": "4",
    "augmentation.blur_kernel": "3",
    # NCSN++ with one level.
    "encoder.features": "8",
    "encoder.num_blocks": "1",  # of an MLP
    "encoder.channel_multipliers": "(1,)",
    "encoder.num_res_blocks": "1",
    "encoder.attention_resolutions": "()",
    "encoder.tap_channels": "2",
    "encoder.tap_units": "8",
    "encoder.tap_resolutions": "None",
    "decoder.features": "8",
    "decoder.channel_multipliers": "(1,)",
    "decoder.num_res_blocks": "1",
    "decoder.attention_resolutions": "()",
    "decoder.num_blocks": "1",  # of an MLP
    "property.context_size": "16",
    "property.features": "8",
    "text.context_size": "12",
    "text_encoder.features": "8",
    "text_encoder.num_layers": "1",
    "text_encoder.num_heads": "4",
    "text_decoder.features": "8",
    "text_decoder.num_layers": "1",
    "text_decoder.num_heads": "4",
    # ResNet with one block.
    "encoder.stage_sizes": "(1,)",
    "encoder.stage_widths": "(4,)",
    "encoder.stem_width": "4",
    "encoder.norm_groups": "2",
    "encoder.head_dim": "4",
    "training.queries": "None",
    "training.batch_size": "15",  # odd: on one of the eight fake devices
    "training.devices": "dividing",
    "training.microbatch_size": "None",
    "training.num_steps": "2",
    "training.warmup_steps": "2",
    "training.log_every_steps": "1",
    "checkpoint.every_steps": "2",
    "evaluation.every_steps": "2",
    "evaluation.num_samples": "20",
    "evaluation.noise_scales": "()",
    "evaluation.batch_sizes": "()",
    "evaluation.context_sizes": "()",
    "sampling.sampler": "euler",  # compiles faster
    "sampling.num_steps": "3",
}


def flags(config, workdir, **changes):
    """Command-line arguments for a shrunk run; a change's double underscore is a dot."""
    return [f"--config={config}", f"--workdir={workdir}", *overrides(config, **changes)]


def overrides(config, **changes):
    """The arguments of `flags` that change the config's fields."""
    named = {name: value for name, value in changes.items() if name in SMALLEST}
    changes = {name.replace("__", "."): str(value) for name, value in changes.items()}
    fields = shrunk(config, **named) | changes
    return [f"--config.{name}={value}" for name, value in fields.items()]


def shrunk(config, **networks):
    """Fields of a shrunk run by dotted name; networks that are not named are the smallest."""
    own = own_networks(config)
    networks = {name: SMALLEST[name].get(own[name], own[name]) for name in own} | networks
    names = {name.replace("__", "."): network for name, network in networks.items()}
    held = configuration.load(str(config), [f"{n}={v}" for n, v in names.items()]).to_dict()
    return names | {name: value for name, value in FIELDS.items() if _holds(held, name)}


def own_networks(config):
    """Names of a config's own networks, as changes of a shrunk one."""
    held = configuration.flatten(configuration.load(str(config)).to_dict())
    return {name.replace(".", "__"): held[name] for name in SMALLEST if name in held}


def _holds(tree, name):
    group, _, leaf = name.partition(".")
    return group in tree and (not leaf or _holds(tree[group], leaf))


def config(path="configs/digits_joint.py", **changes):
    """The shrunk config itself."""
    arguments = flags(path, "unused", **changes)
    return configuration.load(str(path), [a.removeprefix("--config.") for a in arguments[2:]])


class World:
    """A shrunk study on the first fake devices: space, random networks, digits, batch, model."""

    def __init__(self, name, num_devices=1, **changes):
        path = Path(__file__).parents[1] / "configs" / f"{name}.py"
        self.config = config(path, **{"training__batch_size": 16} | changes)
        self.mesh = devices.make_mesh(8, jax.devices()[:num_devices])
        self.space = LatentSpace(self.config, self.mesh)

    @functools.cached_property
    def variables(self):
        if "augmentation" in self.config:  # features of networks at random hardly differ
            return jax.jit(lambda key: shaken(self.space.init(key), 0.1))(jax.random.key(0))
        return random_variables(self.space)

    @functools.cached_property
    def digits(self):
        """Training and test examples."""
        return data.load_data(self.config)

    @functools.cached_property
    def batch(self):
        """The first training examples."""
        some = self.digits[0].at(np.arange(self.config.training.batch_size))
        columns = {"images": some.images, "labels": some.labels, **self.space.columns(some)}
        return jax.tree.map(jnp.asarray, columns)

    @functools.cached_property
    def model(self):
        model = inference.with_contexts(self.space, self.variables, self.digits[0])
        return TrainedModel(self.space, model, 0)

    @functools.cached_property
    def loss(self):
        """The loss of (variables, batch, key), compiled once."""
        return jax.jit(functools.partial(plan.loss, self.space.plan))


@functools.cache
def world(name, num_devices=1, **changes):
    """One world for all tests of a process, so that its programs are compiled once."""
    return World(name, num_devices, **changes)


def share_spaces(monkeypatch):
    """Training and modes of a config have one space, and so share its programs."""
    space_of = functools.cache(LatentSpace)
    for module in (loading, train):
        monkeypatch.setattr(module, "LatentSpace", space_of)


def untrained_run(workdir, config, steps=(2,)):
    """The folder of a run with checkpoints of random networks, others for each step."""
    workdirs.prepare(config, workdir, is_training=True)
    workdirs.record(config, workdir)
    space = LatentSpace(
        config, devices.make_mesh(config.training.microbatch_size or config.training.batch_size)
    )
    examples = data.load_data(config)[0]
    optimizer = train.make_optimizer(config.training, list(space.modules))
    shapes = jax.eval_shape(lambda: train.init_state(space, optimizer, 0))
    with Checkpoints(workdir, config.checkpoint.keep) as checkpoints:
        for step in steps:
            # Nothing is compiled but the encoder of the context anchors.
            state = drawn(shapes, seed=step).replace(step=np.int32(step))
            train.save_state(checkpoints, state, space, examples)
    return workdir


def without_pictures(monkeypatch):
    """Nothing is drawn: a picture takes longer than the metrics of a shrunk run."""
    for name in set(plots.__all__) - {"MAX_PAIRS", "MIN_POINTS", "ZoneMap"}:
        monkeypatch.setattr(plots, name, lambda *_, **__: None)


def slow(*cases):
    """Cases of a parametrised test that repeat its claim."""
    cases = [case if isinstance(case, tuple) else (case,) for case in cases]
    return [pytest.param(*case, marks=pytest.mark.slow) for case in cases]


def drawn(shapes, scale=0.3, seed=0):
    """Arrays of N(0, scale²) in the place of shapes."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: (scale * rng.standard_normal(a.shape)).astype(a.dtype), shapes)


def stand_in(**members):
    """A trained model of these attributes and functions alone."""
    own = {name: staticmethod(x) if callable(x) else x for name, x in members.items()}
    return object.__new__(type("StandIn", (TrainedModel,), own))


def random_variables(space):
    """Parameters away from initial zeros, as `shaken` ones, without a program that makes them."""
    return jax.device_put(drawn(jax.eval_shape(space.init, jax.random.key(0))))


def shaken(tree, scale=0.2):
    """Parameters away from initial zeros, behind which latents, dropout and gradients vanish."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [
        leaf + scale * jax.random.normal(key, leaf.shape, leaf.dtype)
        for leaf, key in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(structure, moved)
