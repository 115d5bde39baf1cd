"""Commands that a run suggests after training."""

import importlib.util
import shlex
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from lzn_jax import extensions
from lzn_jax.data_types import Invertible, Model
from lzn_jax.latent_space import LatentSpace
from lzn_jax.trained_model import TrainedModel

SHOWN = 3


def next_steps(space: LatentSpace, workdir: Path) -> list[str]:
    """Lines that describe what the run can do, with commands, most interesting first.

    They include the demo page if gradio is installed.
    """
    steps = _steps(_untrained(space))
    has_page = importlib.util.find_spec("gradio") is not None
    chosen = [("lzn_jax.main", *step) for step in islice(steps, SHOWN - has_page)]
    chosen += [("lzn_jax.demo", "demo page in the browser", [])] * has_page
    lines = ["next steps:"]
    for module, description, flags in chosen:
        lines += [f"  {description}:", f"    {_command(space, workdir, flags, module)}"]
    return lines


def translations(space: LatentSpace, workdir: Path) -> list[str]:
    """Lines that list the data types of a run, and the commands of its translations."""
    commands = [
        f"  {_command(space, workdir, _translation(space, *pair))}"
        for pair in _untrained(space).translations
    ]
    return [f"data types: {', '.join(space.types)}", "translations:", *(commands or ["  none"])]


def _untrained(space: LatentSpace) -> TrainedModel:
    return TrainedModel(space, Model({}, {}), 0)


def _command(
    space: LatentSpace, workdir: Path, flags: Sequence[str], module: str = "lzn_jax.main"
) -> str:
    common = [f"--workdir={workdir}", *extensions.extension_flags(space.config.extensions)]
    return shlex.join(["python", "-m", module, *common, *flags])


def _translation(space: LatentSpace, source: str, target: str) -> list[str]:
    example = space.types[source].example
    flags = ["--mode=translate", f"--source={source}", f"--target={target}"]
    return flags if example is None else [*flags, f"--input={example}"]


def _steps(model: TrainedModel) -> Iterator[tuple[str, list[str]]]:
    """Descriptions and flags of commands."""
    config, space, main = model.config, model.space, model.main_type
    plural = space.types[main].plural
    for source, target in model.translations:
        if target in space.decoders and main in (source, target):
            flags = _translation(space, source, target)
            yield f"translate {source} to {target}, figures/translations.png", flags
    if main in space.decoders:
        yield f"sample {plural} from the prior or of each class, samples.npz", ["--mode=sample"]
    if (main, model.class_type) in model.translations:
        yield f"classify the test {plural}, predictions.csv", ["--mode=classify"]
    if isinstance(space.decoders.get(main), Invertible):
        yield f"reconstruct the test {plural}, reconstructions.npz", ["--mode=reconstruct"]
    if hasattr(space.encoders.get(main), "features"):
        yield f"compute features of the test {plural}, embeddings.npz", ["--mode=embed"]
    if "probe_protocol" in config.evaluation:
        flags = ["--mode=evaluate", "--config.evaluation.probe_protocol=simclr"]
        yield "evaluate a linear probe by SimCLR's protocol, summary.json", flags
    steps = 2 * config.training.num_steps
    yield "train longer", [f"--config.training.num_steps={steps}"]
