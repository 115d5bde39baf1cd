"""What can be done with a run that has just been trained, as commands to paste."""

import importlib.util
import shlex
from collections.abc import Iterator, Sequence
from itertools import islice

from ml_collections import ConfigDict

from lzn_jax import data
from lzn_jax.latent_space import LatentSpace
from lzn_jax.run import sharding
from lzn_jax.tasks import Tasks

SHOWN = 3

Step = tuple[str, list[str]]  # what is done, in words, and the flags that ask for it


def next_steps(config: ConfigDict, arguments: Sequence[str]) -> list[str]:
    """Lines for people: what the run can do, of most interest first, a command below each.

    `arguments` are the flags that name the run: config, work folder, changed fields. The page is
    among them where what it needs is installed.
    """
    tasks = Tasks(LatentSpace(config, sharding.inference_mesh()))
    has_page = importlib.util.find_spec("gradio") is not None
    lines = ["what can be done next:"]
    for what, flags in islice(_steps(tasks), SHOWN - has_page):
        changed = {flag.partition("=")[0] for flag in flags}
        kept = [given for given in arguments if given.partition("=")[0] not in changed]
        lines += _said(what, "lzn_jax.main", [*kept, *flags])
    if has_page:
        workdir = [given for given in arguments if given.startswith("--workdir=")]
        lines += _said("a page to play with, in the browser", "lzn_jax.demo", workdir)
    return lines


def _said(what: str, module: str, flags: Sequence[str]) -> list[str]:
    return [f"  {what}:", f"    {shlex.join(['python', '-m', module, *flags])}"]


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
    """Those of images and texts, and of labels to images, with a source to begin with."""
    inputs = {("image", "text"): [], ("label", "image"): ["--input=0,1"]}
    if ("text", "image") in tasks.translations:
        texts = data.load(tasks.config.data, "test").texts
        assert texts is not None  # of a run that has trained on texts
        for row in tasks.tokenizer.sayable(texts)[:1]:
            inputs = {("text", "image"): [f"--input={texts[row]}"], **inputs}
    for (source, target), given in inputs.items():
        if (source, target) in tasks.translations:
            flags = ["--mode=translate", f"--source={source}", f"--target={target}"]
            yield f"from {source} to {target}, figures/translations.png", [*flags, *given]
