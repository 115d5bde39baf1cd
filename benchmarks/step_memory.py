"""What a training step of a config needs: memory and operations, found by compiling it alone.

    python benchmarks/step_memory.py --config=configs/imagenet_repr.py [--devices=N]
        [--config.FIELD=VALUE ...]

No data are read and no weights made, so any config fits any machine. Memory is what XLA plans for
one device, of N fake ones of a CPU with --devices=N: another backend plans otherwise, by some ten
per cent.
"""

import argparse

import jax
import numpy as np
import optax

from lzn_jax import configuration, costs, optimization, sharding, studies, train
from lzn_jax.studies import examples_at_a_time

PREFIX = "--config."


def batch_shapes(study: studies.Study, config) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a batch, from one black image."""
    data, size = config.data, config.training.batch_size
    image = np.zeros((data.image_size, data.image_size, data.channels), np.uint8)
    element = {**study.transform(image, np.random.default_rng(0)), "labels": np.int32(0)}
    return {
        name: jax.ShapeDtypeStruct((size, *np.shape(value)), value.dtype)
        for name, value in element.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True)
    parser.add_argument(
        "--devices", type=int, help="fake ones of a CPU; default the first real one"
    )
    arguments, flags = parser.parse_known_args()
    if unknown := [flag for flag in flags if not flag.startswith(PREFIX)]:
        parser.error(f"unknown arguments: {' '.join(unknown)}")
    path = arguments.config
    config = configuration.load(path, [flag.removeprefix(PREFIX) for flag in flags])
    if arguments.devices:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", arguments.devices)
    mesh = sharding.make_mesh(
        examples_at_a_time(config.training), jax.devices()[: arguments.devices or 1]
    )
    study = studies.build(config, mesh)
    optimizer: optax.GradientTransformation = optimization.make_optimizer(
        config.training, list(study.modules)
    )
    shapes = jax.eval_shape(lambda: train.init_state(study, optimizer, config.seed))
    state = sharding.placed(shapes, mesh, shard=config.training.shard_parameters)
    training, backend = config.training, jax.default_backend()
    micro_batch = examples_at_a_time(training)
    batch = f"{training.batch_size} images in parts of {micro_batch}"
    print(f"{path}: {batch}, on one of {mesh.size} {backend} device(s)")
    print(f"{'state':<20} {sharding.bytes_on_a_device(state) / 1e9:8.2f} GB", flush=True)
    traced = train.jit_update(study, optimizer, config, mesh, state).trace(
        state, batch_shapes(study, config)
    )
    cost = costs.count_operations(traced.jaxpr)
    share = 100 * cost.inside / cost.total
    print(f"{cost.total:.3g} operations a step, of which zoning {share:.2g} %", flush=True)
    memory = traced.lower().compile().memory_analysis()
    # The state is donated: its new values take the place of the old ones.
    parts = {
        "state and batch": memory.argument_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "results not in place": memory.output_size_in_bytes - memory.alias_size_in_bytes,
    }
    for name, size in parts.items():
        print(f"{name:<20} {size / 1e9:8.2f} GB")
    print(f"{'in all':<20} {sum(parts.values()) / 1e9:8.2f} GB")


if __name__ == "__main__":
    main()
