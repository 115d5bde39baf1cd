"""What runs survive: kills, lost disks, damaged checkpoints, bad commands; and what it costs.

    python benchmarks/faults.py [--quick] [--parts interruptions disks damage input texts overhead]

* interruptions: runs of digits_joint and digits_repr, shrunk to 60 steps with a save every 10 and
  an evaluation every 20, are killed at random moments and started again. In the end all arrays of
  the last checkpoint (weights, averages, optimiser, context) and metrics.jsonl, but for timings,
  must have the bits of a run that nobody touched.
* disks: the same where the disk is full, or its folder gone, for a while; exit code 2.
* damage: each kind to the newest checkpoint must be reported, and the one before be used.
* input: each bad command must end with exit code 2 and one line, and leave a run as it is.
* texts: the same of metadata, tokenizers, captions and options of texts.
* overhead: of checksums and watchdog, in steps of digits_joint at its own save interval.

`--quick` takes a few of each.
"""

import argparse
import contextlib
import functools
import io
import json
import logging
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from fault_cases import (
    DAMAGE,
    bad_input,
    bad_texts,
    make_bad_files,
    make_bad_texts,
    make_good_pairs,
)
from ml_collections import ConfigDict

from lzn_jax import configuration, data, optimization, train
from lzn_jax import main as command_line
from lzn_jax.latent_space import LatentSpace
from lzn_jax.run import checksums, sharding
from lzn_jax.run.checkpoints import Checkpoints

STEPS = 60
SHRUNK = {
    "data.image_size": 8,
    "data.workers": 0,
    "latent.dim": 4,
    "latent.num_steps": 4,
    "latent.context_size": 16,
    "alignment.num_steps": 4,
    "augmentation.blur_kernel": 3,
    "encoder.features": 4,
    "encoder.channel_multipliers": (1,),
    "encoder.tap_channels": 2,
    "encoder.tap_units": 8,
    "encoder.stage_sizes": (1,),
    "encoder.stage_widths": (4,),
    "encoder.stem_width": 4,
    "encoder.norm_groups": 2,
    "encoder.head_dim": 4,
    "decoder.features": 4,
    "decoder.channel_multipliers": (1,),
    "decoder.attention_resolutions": (),
    "decoder.dropout": 0.1,
    "text.context_size": 12,
    "text_encoder.features": 8,
    "text_encoder.num_layers": 1,
    "text_encoder.num_heads": 4,
    "text_decoder.features": 8,
    "text_decoder.num_layers": 1,
    "text_decoder.num_heads": 4,
    "training.batch_size": 16,
    "training.microbatch_size": None,
    "training.num_steps": STEPS,
    "training.log_every_steps": 1,
    "checkpoint.every_steps": 10,
    "evaluation.every_steps": 20,
    "evaluation.num_samples": 20,
    "evaluation.noise_scales": (),
    "evaluation.batch_sizes": (),
    "evaluation.context_sizes": (),
    "sampling.num_steps": 3,
}
TIMINGS = {"steps_per_second", "examples_per_second", "evaluation_seconds"}
NAMED_BEFORE = ("no pair", "left out: ", "texts left out: ")  # faults, before the error's line
UNFINISHED = "orbax-checkpoint-tmp"  # in the name of a checkpoint that is not complete
A_RUN = 900  # seconds within which a process must end
RNG = np.random.default_rng(0)


def flags_of(name: str, workdir: Path) -> list[str]:
    """Arguments of a shrunk run."""
    path = f"configs/{name}.py"
    held = configuration.flatten(configuration.load(path).to_dict())
    fields = [f"--config.{key}={value}" for key, value in SHRUNK.items() if key in held]
    return [f"--config={path}", f"--workdir={workdir}", *fields]


class Run:
    """A shrunk run in processes of its own, one after the other."""

    def __init__(self, name: str, workdir: Path, *flags: str) -> None:
        self.workdir = workdir
        self.command = [sys.executable, "-m", "lzn_jax.main", *flags_of(name, workdir), *flags]

    def start(self) -> "subprocess.Popen[str]":
        self.process = subprocess.Popen(self.command, stderr=subprocess.PIPE, text=True)
        return self.process

    def end(self) -> tuple[int, str]:
        """Exit code and stderr."""
        _, errors = self.process.communicate(timeout=A_RUN)
        return self.process.returncode, errors

    def wait_for(self, step: int) -> None:
        """Waits until a step is logged, or the process has ended."""
        while self.process.poll() is None:
            lines = self.lines()
            if lines and lines[-1]["step"] >= step:
                return
            time.sleep(0.01)

    def lines(self) -> list[dict[str, Any]]:
        path = self.workdir / "metrics.jsonl"
        if not path.exists():
            return []
        whole = [line for line in path.read_text().splitlines(True) if line.endswith("\n")]
        return [json.loads(line) for line in whole]

    def checksums(self) -> dict[str, str]:
        return arrays_of(self.workdir / "checkpoints" / str(STEPS))


def arrays_of(checkpoint: Path) -> dict[str, str]:
    """Checksums of its arrays, as they were in memory, by name."""
    found: dict[str, str] = json.loads((checkpoint / "progress" / "metadata").read_text())
    return found["checksums"]  # type: ignore[return-value]


def compare(run: Run, reference: Run) -> Counter[str]:
    """How a finished run differs from the one that nobody touched."""
    untimed = [[{k: v for k, v in line.items() if k not in TIMINGS} for line in r.lines()]
               for r in (run, reference)]  # fmt: skip
    seen = Counter((line["step"], name) for line in run.lines() for name in line if name != "step")
    evaluated = [{line["step"] for line in r.lines() if "evaluation_seconds" in line}
                 for r in (run, reference)]  # fmt: skip
    return Counter(
        {
            "other arrays": int(run.checksums() != reference.checksums()),
            "other metrics": int(untimed[0] != untimed[1]),
            "lost evaluations": len(evaluated[1] - evaluated[0]),
            "duplicate lines": sum(count > 1 for count in seen.values()),
        }
    )


def interrupt(run: Run, reference: Run, number: signal.Signals, times: int) -> Counter[str]:
    """Interrupts a run a few times, each time further on, and lets it end."""
    moments = sorted(RNG.integers(1, STEPS, times))
    result: Counter[str] = Counter()
    for step in moments:
        run.start()
        run.wait_for(int(step))
        time.sleep(RNG.uniform(0, 0.5))
        run.process.send_signal(number)
        code, errors = run.end()
        # Where a start has just begun, a signal can come before Python listens.
        asked = (75, 0, -number)
        expected = {signal.SIGKILL: (-9, 0), signal.SIGTERM: asked, signal.SIGINT: asked}[number]
        result["interruptions"] += code != 0
        if code not in expected:
            result["wrong exit codes"] += 1
            print(errors[-2000:])
    run.start()
    code, errors = run.end()
    if code != 0:
        raise SystemExit(f"the last start ended with {code}: {errors[-2000:]}")
    result.update(compare(run, reference))
    return result


def interruptions(folder: Path, quick: bool) -> None:
    """Part (a)."""
    for name in ("digits_joint", "digits_repr"):
        reference = finished(name, folder)
        for number, runs, times in (
            (signal.SIGKILL, 4, 5),
            (signal.SIGTERM, 3, 5),
            (signal.SIGINT, 3, 5),
        ):
            total: Counter[str] = Counter()
            for index in range(1 if quick else runs):
                workdir = folder / f"{name}_{number.name}_{index}"
                run = Run(name, workdir)
                total.update(interrupt(run, reference, number, 2 if quick else times))
            show(f"{name}, {number.name}", total)


def disks(folder: Path, quick: bool) -> None:
    """Disks that fail for a while, at one moment or at several."""
    reference = finished("digits_joint", folder)
    for name, fail in (("disk full", fill_disk), ("folder gone", take_folder)):
        run = Run("digits_joint", folder / name.replace(" ", "_"))
        total: Counter[str] = Counter()
        for step in (25,) if quick else (12, 25, 47):
            run.start()
            run.wait_for(step)
            repair = fail(run)
            code, errors = run.end()
            repair()
            total["interruptions"] += 1
            lines = [line for line in errors.splitlines() if line.startswith("error: ")]
            if code != 2 or len(lines) != 1 or "Traceback" in errors:
                total["not one line and code 2"] += 1
                print(code, errors[-2000:])
        run.start()
        code, errors = run.end()
        total.update(compare(run, reference))
        show(f"digits_joint, {name}", total)


def fill_disk(run: Run) -> Callable[[], None]:
    """Of the process no file can grow any more, as on a full disk."""
    resource.prlimit(run.process.pid, resource.RLIMIT_FSIZE, (0, 0))
    return lambda: None


def take_folder(run: Run) -> Callable[[], None]:
    """The folder is elsewhere until it is brought back."""
    away = run.workdir.with_name(f"{run.workdir.name}_away")
    run.workdir.rename(away)

    def bring_back() -> None:
        # A save that is under way makes the folders it writes to.
        made = [path for path in run.workdir.rglob("*") if UNFINISHED not in str(path)]
        if any(path.name != "checkpoints" for path in made):
            raise SystemExit(f"{run.workdir} was made again: {made}")
        shutil.rmtree(run.workdir, ignore_errors=True)
        away.rename(run.workdir)

    return bring_back


@functools.cache
def finished(name: str, folder: Path, *flags: str) -> Run:
    """A run that nobody touches."""
    run = Run(name, folder / f"{name}_untouched", *flags)
    run.start()
    code, errors = run.end()
    if code != 0:
        raise SystemExit(errors)
    return run


def shapes_and_mesh(config: ConfigDict) -> tuple[Any, Any, Any, Any]:
    mesh = sharding.make_mesh(config.training.batch_size, jax.devices()[:1])
    space = LatentSpace(config, mesh)
    optimizer = optimization.make_optimizer(config.training, list(space.modules))
    init = functools.partial(train.init_state, space, optimizer, config.seed)
    return space, optimizer, init, mesh


def damage(folder: Path, quick: bool) -> None:
    """Part (b)."""
    run = finished("digits_joint", folder)
    flags = flags_of("digits_joint", run.workdir)
    config = configuration.load(flags[0][9:], [flag[9:] for flag in flags[2:]])
    space, _, init, mesh = shapes_and_mesh(config)
    shapes = jax.eval_shape(init)
    targets = {"params": shapes.params, "optimizer": shapes.optimizer}
    targets["ema"] = {"params": shapes.ema, "constants": shapes.constants}
    targets["context"] = space.context_shapes()
    targets = sharding.placed(targets, mesh)
    records = io.StringIO()
    logging.getLogger("lzn_jax").addHandler(logging.StreamHandler(records))
    logging.getLogger("lzn_jax").propagate = False
    total: Counter[str] = Counter()
    for name in list(DAMAGE)[:: 5 if quick else 1]:
        workdir = folder / "damaged"
        shutil.copytree(run.workdir / "checkpoints", workdir / "checkpoints")
        before, newest = (workdir / "checkpoints" / str(step) for step in (STEPS - 10, STEPS))
        DAMAGE[name](newest, before)
        records.seek(0)
        records.truncate()
        with Checkpoints(workdir) as checkpoints:
            restored = checkpoints.restore(targets)
        step, items = restored or (0, {})
        items.pop("progress", None)
        good = arrays_of(before)
        del good["progress"]
        total["kinds"] += 1
        total["detected"] += f"checkpoint {STEPS} is passed over" in records.getvalue()
        total["recovered"] += step == STEPS - 10 and checksums.of_arrays(items) == good
        print(f"  {name}: {records.getvalue().strip()[:110]}")
        shutil.rmtree(workdir)
    show("damage to the newest checkpoint", total)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def bad_inputs(folder: Path, quick: bool) -> None:
    """Part (c)."""
    run = finished("digits_joint", folder).workdir
    damaged = folder / "all_damaged"
    shutil.copytree(run, damaged)
    for path in (damaged / "checkpoints").glob("*/progress/metadata"):
        path.write_bytes(b"{}")
    make_bad_files(folder / "bad")
    flags = flags_of("digits_joint", run)
    cases = [(name, [*flags, *more]) for name, more in bad_input(run, damaged, folder / "bad")]
    show("bad input", refused(cases[:: 10 if quick else 1], (run, damaged)))


def bad_texts_alone(folder: Path, quick: bool) -> None:
    """The same of texts."""
    make_bad_texts(folder / "bad_texts")
    own = {"image_text": [f"--config.data.path={make_good_pairs(folder / 'pairs')}"]}
    runs = {
        name: finished(name, folder, *own.get(name, ())).workdir
        for name in ("digits_text", "image_text")
    }
    cases = [
        (name, [*flags_of(config, runs.get(config, folder)), *own.get(config, ()), *more])
        for name, config, more in bad_texts(folder / "bad_texts")
    ]
    show("bad texts", refused(cases[:: 10 if quick else 1], tuple(runs.values())))


def refused(cases: Sequence[tuple[str, list[str]]], runs: Sequence[Path]) -> Counter[str]:
    """How many of these commands end as they should, without a change in the runs' folders."""
    before = [contents(run) for run in runs]
    total: Counter[str] = Counter()
    for name, arguments in cases:
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors):
            try:
                code = command_line.main(arguments)
            except BaseException as error:  # a traceback is what is looked for
                code = f"{type(error).__name__}: {error}"
        total["cases"] += 1
        total["exit code 2"] += code == 2
        lines = errors.getvalue().splitlines()
        ends = [line for line in lines if line.startswith("error: ")]
        others = [line for line in lines if not line.startswith(("error: ", *NAMED_BEFORE))]
        is_one_line = len(ends) == 1 and (not others or "damaged" in name)
        total["one line"] += is_one_line
        if [contents(run) for run in runs] != before:
            total["files touched"] += 1
        if code != 2 or not is_one_line:
            print(f"  {name}: {code}: {errors.getvalue()[-500:]}")
    return total


def overhead(folder: Path, quick: bool) -> None:
    """Part (d): all that checksums and watchdog do, as if nothing of it ran beside the steps."""
    config = configuration.load("configs/digits_joint.py")
    space, optimizer, init, mesh = shapes_and_mesh(config)
    examples, _ = data.load_data(config)
    batches = data.TrainingBatches(examples, config.training.batch_size, 0, space.transform)
    fast_compile = {"xla_backend_optimization_level": 0}
    placement = sharding.replicated(mesh)
    state = jax.jit(init, out_shardings=placement, compiler_options=fast_compile)()
    update = train.jit_update(space, optimizer, config, mesh, state)
    seconds = []
    for _ in range(5 if quick else 30):
        batch = sharding.put_rows(next(batches), mesh)
        began = time.perf_counter()
        state, _ = jax.block_until_ready(update(state, batch))
        seconds.append(time.perf_counter() - began)
    step = float(np.median(seconds[1:]))

    items = {"params": state.params, "optimizer": state.optimizer, "ema": {"params": state.ema}}
    with Checkpoints(folder / "overhead", keep=2) as checkpoints:
        train.save_state(checkpoints, state, space, examples)
        checkpoints.wait()
        every_step = median_seconds(checkpoints.check)
    (saved,) = (folder / "overhead" / "checkpoints").iterdir()
    arrays = median_seconds(lambda: checksums.of_arrays(items))
    files = median_seconds(lambda: checksums.add_files(saved, [*checksums.files_below(saved)]))
    interval = config.checkpoint.every_steps
    total = arrays + files + interval * every_step
    size = sum(array.nbytes for array in jax.tree.leaves(items))
    print(
        f"overhead: a step {step:.3g} s; checksums of arrays ({size / 1e6:.1f} MB) {arrays:.2g} s, "
        f"of files {files:.2g} s a save; check {every_step:.2g} s a step; with a save every "
        f"{interval} steps {total / (interval * step):.3%} of the time in steps"
    )


def median_seconds(action: Callable[[], object]) -> float:
    seconds = []
    for _ in range(20):
        began = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds))


def show(name: str, total: Counter[str]) -> None:
    print(f"{name}: " + ", ".join(f"{count} {what}" for what, count in total.items()), flush=True)


PARTS = {
    "interruptions": interruptions,
    "disks": disks,
    "damage": damage,
    "input": bad_inputs,
    "texts": bad_texts_alone,
    "overhead": overhead,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few of each")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for part in arguments.parts:
            PARTS[part](Path(folder), arguments.quick)


if __name__ == "__main__":
    main()
