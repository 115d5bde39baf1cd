"""Several processes on this machine that make up one run."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def start(command, *, count=2, devices=1, **environment):
    """Starts `command(address, i)`, arguments of Python, as processes of so many devices."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    return [
        subprocess.Popen(
            [sys.executable, *command(address, i)],
            env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"} | environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(count)
    ]


def start_code(code, **options):
    """Starts Python code that finds the other processes in JAX's variables; `i` is its number."""

    def command(address, i):
        meet = f"i = {i}\nwhere = dict(coordinator={address!r}, num_processes=2, process_id=i)\n"
        return ["-c", f"{meet}{code}"]

    return start(command, **options)


def start_main(arguments, *, count=2, **options):
    """Starts the command line."""

    def command(address, i):
        flags = [f"--coordinator={address}", f"--num_processes={count}", f"--process_id={i}"]
        return ["-m", "lzn_jax.main", *arguments, *flags]

    return start(command, count=count, **options)


def finish(processes, timeout=900):
    """(exit code, stdout, stderr) of each; none outlives this."""
    try:
        texts = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()  # SIGTERM means to save
    return [(process.returncode, *text) for process, text in zip(processes, texts, strict=True)]
