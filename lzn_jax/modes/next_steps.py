"""What can be done with a run that has just been trained, as commands to paste."""

import importlib.util
import shlex
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from ml_collections import ConfigDict

from lzn_jax import parts
from lzn_jax.data_types import Invertible
from lzn_jax.latent_space import LatentSpace, Model
from lzn_jax.run import sharding
from lzn_jax.trained_model import TrainedModel

SHOWN = 3

Step = tuple[str, list[str]]  # what is done, in words, and the flags that ask for it


def next_steps(config: ConfigDict, workdir: Path) -> list[str]:
    """Lines for people: what the run in a folder can do, of most interest first, with commands.

    The page is among them where what it needs is installed.
    """
    space = LatentSpace(config, sharding.inference_mesh())
    model = TrainedModel(space, Model({}, {}), 0)
    has_page = importlib.util.find_spec("gradio") is not None
    lines = ["what can be done next:"]
    flags = [f"--workdir={workdir}", *parts.extension_flags(config.extensions)]
    for what, own in islice(_steps(model), SHOWN - has_page):
        lines += _step("lzn_jax.main", what, [*flags, *own])
    if has_page:
        lines += _step("lzn_jax.demo", "a page to play with, in the browser", flags)
    return lines


def _step(module: str, what: str, flags: Sequence[str]) -> list[str]:
    return [f"  {what}:", f"    {shlex.join(['python', '-m', module, *flags])}"]


def _steps(model: TrainedModel) -> Iterator[Step]:
    config, space, main = model.config, model.space, model.main_type
    plural = space.types[main].plural
    for source, target in model.translations:
        if target in space.decoders and main in (source, target):
            example = space.types[source].example
            flags = ["--mode=translate", f"--source={source}", f"--target={target}"]
            flags += [] if example is None else [f"--input={example}"]
            yield f"from {source} to {target}, figures/translations.png", flags
    if main in space.decoders:
        yield f"{plural} of the prior or of each class, samples.npz", ["--mode=sample"]
    if model.classifies:
        yield f"classes of the test {plural}, predictions.csv", ["--mode=classify"]
    if isinstance(space.decoders.get(main), Invertible):
        yield f"test {plural} to noise and back, reconstructions.npz", ["--mode=reconstruct"]
    if hasattr(space.encoders.get(main), "features"):
        yield f"features of the test {plural}, embeddings.npz", ["--mode=embed"]
    if "probe_protocol" in config.evaluation:
        flags = ["--mode=evaluate", "--config.evaluation.probe_protocol=simclr"]
        yield "a linear probe trained as SimCLR's is, summary.json", flags
    steps = 2 * config.training.num_steps
    yield "more training", [f"--config.training.num_steps={steps}"]
