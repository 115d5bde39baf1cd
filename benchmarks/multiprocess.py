"""Many processes on this machine: equal results, resumption elsewhere, and a common end.

    python benchmarks/multiprocess.py [--folder=FOLDER] [--parts equality endings]

Runs the real command line on fake CPU devices, on a shrunk digits_joint. Differences are those of
every number in metrics.jsonl, relative, the evaluation's included. A run is killed, frozen
(SIGSTOP) or asked to end (SIGTERM) after 5 steps; seconds are those until all that can have ended.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from lzn_jax.run import reporting

ROOT = Path(__file__).parent.parent
LAUNCHER = ROOT / "launch" / "local_multiprocess.py"
STEPS = 4
SHRUNK = {
    "latent.dim": "4",
    "latent.num_steps": "4",
    "latent.context_size": "16",
    "alignment.num_steps": "4",
    "encoder.features": "4",
    "encoder.channel_multipliers": "(1,)",
    "encoder.tap_channels": "2",
    "encoder.tap_units": "8",
    "encoder.tap_resolutions": "None",
    "decoder.features": "4",
    "decoder.channel_multipliers": "(1,)",
    "decoder.dropout": "0.1",
    "training.batch_size": "48",
    "training.warmup_steps": "2",
    "training.schedule": "constant",
    "training.log_every_steps": "1",
    "evaluation.num_samples": "20",
    "evaluation.noise_scales": "()",
    "evaluation.batch_sizes": "()",
    "evaluation.context_sizes": "()",
    "sampling.num_steps": "3",
}


def start(
    workdir: Path, processes: int, devices: int, num_steps: int, **changes: str
) -> subprocess.Popen[str]:
    """Starts a run in the background; of several processes each line says its number.

    A double underscore in the name of a change is a dot.
    """
    every = num_steps if num_steps > STEPS else STEPS // 2
    fields = SHRUNK | {
        "training.num_steps": str(num_steps),
        "checkpoint.every_steps": str(every),
        "evaluation.every_steps": str(num_steps),
    }
    fields |= {name.replace("__", "."): value for name, value in changes.items()}
    inner = ["--config=configs/digits_joint.py", f"--workdir={workdir}"]
    inner += [f"--config.{name}={value}" for name, value in fields.items()]
    environment = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    if processes == 1:
        flags = f"--xla_force_host_platform_device_count={devices}"
        environment |= {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-m", "lzn_jax.main", *inner]
    else:
        counts = [f"--processes={processes}", f"--devices={devices}"]
        command = [sys.executable, str(LAUNCHER), *counts, "--", *inner]
    return subprocess.Popen(
        command,
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(run: subprocess.Popen[str]) -> str:
    """What a run that shall end well has said."""
    said, _ = run.communicate()
    if run.returncode:
        sys.exit(f"{said}\n{run.args} ended with code {run.returncode}")
    return said


def metrics(workdir: Path) -> dict[tuple[str, int], float]:
    """All numbers of a run but for times."""
    return {
        (name, int(step)): float(value)
        for name, (steps, values) in reporting.read_metrics(workdir).items()
        if not name.endswith(("per_second", "_seconds"))
        for step, value in zip(steps, values, strict=True)
    }


def difference(workdir: Path, other: Path) -> float:
    """The largest relative difference of the two runs' numbers; their lines must be the same."""
    one, two = metrics(workdir), metrics(other)
    if one.keys() != two.keys():
        sys.exit(f"{workdir} and {other} logged different things: {one.keys() ^ two.keys()}")
    return max(abs(one[key] - two[key]) / max(abs(one[key]), 1e-30) for key in one)


def equality(folder: Path) -> None:
    """2 x 4 devices against 1 x 8; and a run of 1 x 8 that goes on elsewhere."""
    alone = folder / "1x8"
    finish(start(alone, 1, 8, STEPS))
    print("\n| processes x devices | from step 0 | from step 2, saved by 1 x 8 |\n|---|---|---|")
    for processes, devices in ((1, 8), (2, 4), (1, 4), (2, 2)):
        cells = []
        for first in (0, STEPS // 2):
            workdir = folder / f"{processes}x{devices}_from_{first}"
            if (processes, devices, first) not in ((1, 8, 2), (2, 4, 0), (1, 4, 2), (2, 2, 2)):
                cells.append("the run compared with" if first == 0 and devices == 8 else "-")
                continue
            if first:
                shutil.copytree(alone, workdir)
                shutil.rmtree(workdir / "checkpoints" / str(STEPS))
            finish(start(workdir, processes, devices, STEPS))
            cells.append(f"{difference(alone, workdir):.1e}")
        print(f"| {processes} x {devices} | {' | '.join(cells)} |", flush=True)


def endings(folder: Path) -> None:
    """What the death of one process does to the other."""
    print("\n| to one of two processes | seconds | exit code of the other |\n|---|---|---|")
    for name, number, who in (
        ("kill -9 of process 1", signal.SIGKILL, 1),
        ("kill -9 of process 0", signal.SIGKILL, 0),
        ("process 1 frozen", signal.SIGSTOP, 1),
        ("SIGTERM of process 1", signal.SIGTERM, 1),
    ):
        workdir = folder / name.replace(" ", "_")
        run = start(workdir, 2, 1, 10**6, latent__enabled="False")  # which compiles faster
        assert run.stdout is not None
        pids = [int(re.search(r"pid (\d+)", run.stdout.readline())[1]) for _ in range(2)]
        while not _has_logged(workdir, 5):
            time.sleep(0.1)
        os.kill(pids[who], number)
        began = time.monotonic()
        while _is_running(pids[1 - who]):
            time.sleep(0.1)
        seconds = time.monotonic() - began
        if number == signal.SIGSTOP:
            os.kill(pids[who], signal.SIGKILL)
        said, _ = run.communicate()
        codes = re.findall(r"\[(\d)\] ended with code (-?\d+)", said)
        print(f"| {name} | {seconds:.0f} | {dict(codes)[str(1 - who)]} |", flush=True)


def _has_logged(workdir: Path, step: int) -> bool:
    path = workdir / reporting.METRICS_FILE
    return path.exists() and any(
        json.loads(line)["step"] >= step for line in path.read_text().splitlines()[:-1]
    )


def _is_running(pid: int) -> bool:
    """A zombie, which its parent has not seen yet, is not running."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("results/multiprocess"))
    parts = {"equality": equality, "endings": endings}
    parser.add_argument("--parts", nargs="+", choices=list(parts), default=list(parts))
    arguments = parser.parse_args()
    for name in arguments.parts:
        folder = arguments.folder.absolute() / name
        shutil.rmtree(folder, ignore_errors=True)
        parts[name](folder)


if __name__ == "__main__":
    main()
