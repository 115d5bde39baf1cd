#!/usr/bin/env python3
"""One run as several processes on this machine's CPU, to try out what a pod would do.

    python launch/local_multiprocess.py --processes=2 --devices=4 -- \\
        --config=configs/digits_joint.py --workdir=results/pair

Each line of output has the number of its process in front. SIGTERM goes on to all processes, which
save and end with code 75; a terminal sends Ctrl-C to all by itself. The exit code is that of the
first process that fails, 0 without any.
--dry-run prints the commands.
"""

import argparse
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).parent.parent
INNER = ["-m", "lzn_jax.main"]


def environments(count: int, devices: int) -> list[dict[str, str]]:
    """What the processes find in their environment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    common = {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_NUM_PROCESSES": str(count),
    }
    return [{**common, "JAX_PROCESS_ID": str(i)} for i in range(count)]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument("--devices", type=int, default=1, help="fake devices of each process")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("inner", nargs="+", metavar="-- ARGUMENTS", help="of lzn_jax.main")
    flags = parser.parse_args(arguments)
    if not any(argument.startswith("--config=") for argument in flags.inner):
        parser.error("say what to run: -- --config=configs/NAME.py")
    running = []
    for i, environment in enumerate(environments(flags.processes, flags.devices)):
        if flags.dry_run:
            words = ["python", *INNER, *flags.inner]
            variables = [f"{name}={shlex.quote(value)}" for name, value in environment.items()]
            print(*variables, shlex.join(words))
            continue
        process = subprocess.Popen(
            [sys.executable, *INNER, *flags.inner],
            env=os.environ | environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        print(f"[{i}] pid {process.pid}", flush=True)
        running.append((process, _echo(i, process)))
    signal.signal(signal.SIGTERM, lambda *_: [p.terminate() for p, _ in running])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    codes = []
    for i, (process, echo) in enumerate(running):
        codes.append(process.wait())
        echo.join()
        print(f"[{i}] ended with code {codes[-1]}", flush=True)
    return next((code for code in codes if code), 0)


def _echo(number: int, process: subprocess.Popen) -> threading.Thread:
    def run() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            print(f"[{number}] {line}", end="", flush=True)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
