"""What runs survive, in processes of their own: kills and lost disks.

    python benchmarks/faults.py [--quick] [--parts interruptions disks]

* interruptions: runs of digits_joint and digits_repr, shrunk to 60 steps with a save every 10 and
  an evaluation every 20, are killed at random moments and started again. In the end all arrays of
  the last checkpoint (weights, averages, optimiser, context) and metrics.jsonl, but for timings,
  must have the bits of a run that nobody touched.
* disks: the same where the disk is full, or its folder gone, for a while; exit code 2.

`--quick` takes a few of each.
"""

import argparse
import functools
import json
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from lzn_jax import configuration

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import small  # shrinks the configs

STEPS = 60
CHANGES = {
    "training__num_steps": STEPS,
    "checkpoint__every_steps": 10,
    "evaluation__every_steps": 20,
    "data__workers": 0,
}
UNFINISHED = "orbax-checkpoint-tmp"  # in the name of a checkpoint that is not complete
A_RUN = 900  # seconds within which a process must end
RNG = np.random.default_rng(0)


class Run:
    """A shrunk run in processes of its own, one after the other."""

    def __init__(self, name, workdir):
        self.workdir = workdir
        held = configuration.load(f"configs/{name}.py").data
        changes = {k: v for k, v in CHANGES.items() if k != "data__workers" or "workers" in held}
        flags = small.flags(f"configs/{name}.py", workdir, **changes)
        self.command = [sys.executable, "-m", "lzn_jax.main", *flags]

    def start(self):
        self.process = subprocess.Popen(self.command, stderr=subprocess.PIPE, text=True)

    def end(self):
        """Exit code and stderr."""
        _, errors = self.process.communicate(timeout=A_RUN)
        return self.process.returncode, errors

    def finish(self):
        self.start()
        code, errors = self.end()
        if code != 0:
            raise SystemExit(f"the last start ended with {code}: {errors[-2000:]}")

    def wait_for(self, step):
        """Waits until a step is logged, or the process has ended."""
        while self.process.poll() is None:
            lines = self.lines()
            if lines and lines[-1]["step"] >= step:
                return
            time.sleep(0.01)

    def lines(self):
        path = self.workdir / "metrics.jsonl"
        if not path.exists():
            return []
        whole = [line for line in path.read_text().splitlines(True) if line.endswith("\n")]
        return [json.loads(line) for line in whole]

    def arrays(self):
        """Bytes of the last checkpoint's arrays by name."""
        folder = self.workdir / "checkpoints" / str(STEPS)
        with ocp.PyTreeCheckpointer() as reader:
            trees = {name: reader.restore(folder / name)
                     for name in ("params", "ema", "optimizer", "context")
                     if (folder / name).exists()}  # fmt: skip
        leaves, _ = jax.tree_util.tree_flatten_with_path(trees)
        return {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in leaves}


def compare(run, reference):
    """How a finished run differs from the one that nobody touched."""
    untimed = [[{k: v for k, v in line.items() if k not in small.TIMINGS} for line in r.lines()]
               for r in (run, reference)]  # fmt: skip
    seen = Counter((line["step"], name) for line in run.lines() for name in line if name != "step")
    evaluated = [{line["step"] for line in r.lines() if "evaluation_seconds" in line}
                 for r in (run, reference)]  # fmt: skip
    return Counter(
        {
            "other arrays": int(run.arrays() != reference.arrays()),
            "other metrics": int(untimed[0] != untimed[1]),
            "lost evaluations": len(evaluated[1] - evaluated[0]),
            "duplicate lines": sum(count > 1 for count in seen.values()),
        }
    )


@functools.cache
def finished(name, folder):
    """A run that nobody touches."""
    run = Run(name, folder / f"{name}_untouched")
    run.finish()
    return run


def interruptions(folder, quick):
    """Runs that are interrupted a few times, each time further on."""
    for name in ("digits_joint", "digits_repr"):
        reference = finished(name, folder)
        for number, runs in ((signal.SIGKILL, 4), (signal.SIGTERM, 3), (signal.SIGINT, 3)):
            # Where a start has just begun, a signal can come before Python listens.
            expected = (-9, 0) if number == signal.SIGKILL else (75, 0, -number)
            total = Counter()
            for index in range(1 if quick else runs):
                run = Run(name, folder / f"{name}_{number.name}_{index}")
                for step in sorted(RNG.integers(1, STEPS, 2 if quick else 5)):
                    run.start()
                    run.wait_for(int(step))
                    time.sleep(RNG.uniform(0, 0.5))
                    run.process.send_signal(number)
                    code, errors = run.end()
                    total["interruptions"] += code != 0
                    if code not in expected:
                        total["wrong exit codes"] += 1
                        print(errors[-2000:])
                run.finish()
                total.update(compare(run, reference))
            show(f"{name}, {number.name}", total)


def disks(folder, quick):
    """Disks that fail for a while, at one moment or at several."""
    reference = finished("digits_joint", folder)
    for name, fail in (("disk full", fill_disk), ("folder gone", take_folder)):
        run, total = Run("digits_joint", folder / name.replace(" ", "_")), Counter()
        for step in (25,) if quick else (12, 25, 47):
            run.start()
            run.wait_for(step)
            repair = fail(run)
            code, errors = run.end()
            repair()
            total["interruptions"] += 1
            lines = [line for line in errors.splitlines() if line.startswith("error: ")]
            if code != 2 or lines != errors.splitlines()[-1:]:
                total["not a last line and code 2"] += 1
                print(code, errors[-2000:])
        run.finish()
        total.update(compare(run, reference))
        show(f"digits_joint, {name}", total)


def fill_disk(run):
    """Of the process no file can grow any more, as on a full disk."""
    resource.prlimit(run.process.pid, resource.RLIMIT_FSIZE, (0, 0))
    return lambda: None


def take_folder(run):
    """The folder is elsewhere until it is brought back."""
    away = run.workdir.with_name(f"{run.workdir.name}_away")
    run.workdir.rename(away)

    def bring_back():
        # A save that is under way makes the folders it writes to.
        made = [path for path in run.workdir.rglob("*") if UNFINISHED not in str(path)]
        if any(path.name != "checkpoints" for path in made):
            raise SystemExit(f"{run.workdir} was made again: {made}")
        shutil.rmtree(run.workdir, ignore_errors=True)
        away.rename(run.workdir)

    return bring_back


def show(name, total):
    print(f"{name}: " + ", ".join(f"{count} {what}" for what, count in total.items()), flush=True)


PARTS = {"interruptions": interruptions, "disks": disks}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few of each")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for part in arguments.parts:
            PARTS[part](Path(folder), arguments.quick)


if __name__ == "__main__":
    main()
