"""What can be done with a run that has just been trained, as commands to paste."""

import importlib.util
import shlex
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from ml_collections import ConfigDict

from lzn_jax.latent_space import LatentSpace
from lzn_jax.run import sharding
from lzn_jax.tasks import Tasks

SHOWN = 3

Step = tuple[str, list[str]]  # what is done, in words, and the flags that ask for it


def next_steps(config: ConfigDict, workdir: Path) -> list[str]:
    """Lines for people: what the run in a folder can do, of most interest first, with commands.

    The page is among them where what it needs is installed.
    """
    tasks = Tasks(LatentSpace(config, sharding.inference_mesh()))
    has_page = importlib.util.find_spec("gradio") is not None
    lines = ["what can be done next:"]
    for what, flags in islice(_steps(tasks), SHOWN - has_page):
        lines += _step("lzn_jax.main", what, workdir, flags)
    if has_page:
        lines += _step("lzn_jax.demo", "a page to play with, in the browser", workdir)
    return lines


def _step(module: str, what: str, workdir: Path, flags: Sequence[str] = ()) -> list[str]:
    command = ["python", "-m", module, f"--workdir={workdir}", *flags]
    return [f"  {what}:", f"    {shlex.join(command)}"]


def _steps(tasks: Tasks) -> Iterator[Step]:
    yield from _translations(tasks)
    config, space = tasks.config, tasks.space
    if "image" in space.decoders:
        yield "images of the prior or of each class, samples.npz", ["--mode=sample"]
    if tasks.classifies:
        yield "classes of the test images, predictions.csv", ["--mode=classify"]
    if "image" in space.decoders:
        yield "test images to noise and back, reconstructions.npz", ["--mode=reconstruct"]
    if "image" in space.encoders:
        yield "features of the test images, embeddings.npz", ["--mode=embed"]
    if "probe_protocol" in config.evaluation:
        flags = ["--mode=evaluate", "--config.evaluation.probe_protocol=simclr"]
        yield "a linear probe trained as SimCLR's is, summary.json", flags
    steps = 2 * config.training.num_steps
    yield "more training", [f"--config.training.num_steps={steps}"]


def _translations(tasks: Tasks) -> Iterator[Step]:
    """Those of images and texts, of test samples, and of labels to images."""
    inputs = {("text", "image"): [], ("image", "text"): [], ("label", "image"): ["--input=0,1"]}
    for (source, target), given in inputs.items():
        if (source, target) in tasks.translations:
            flags = ["--mode=translate", f"--source={source}", f"--target={target}"]
            yield f"from {source} to {target}, figures/translations.png", [*flags, *given]
