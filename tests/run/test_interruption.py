"""What Ctrl-C and SIGTERM do to a command, in processes of their own that need no JAX."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Compiled code, during which no handler of Python runs, for an hour.
BUSY = "hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"
LISTEN = """
import faulthandler, hashlib
faulthandler.dump_traceback_later(20, exit=True)
from lzn_jax.run.processes import Interrupted, Interruption
interruption = Interruption()
interruption.listen()
"""


def _start(code):
    process = subprocess.Popen(
        [sys.executable, "-c", f"{LISTEN}{code}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    time.sleep(0.1)
    return process


def _end(process):
    try:
        _, errors = process.communicate(timeout=20)
    finally:
        process.kill()
    return process.returncode, errors


@pytest.mark.parametrize(
    ("code", "number", "expected"),
    [
        ("", signal.SIGINT, (130, "interrupted\n")),
        ("", signal.SIGTERM, (75, "")),
        ("interruption.exit_code = 75", signal.SIGINT, (75, "interrupted\n")),
    ],
)
def test_a_signal_ends_a_command_at_once_even_in_compiled_code(code, number, expected):
    process = _start(f"{code}\nprint('ready', flush=True)\n{BUSY}")
    process.send_signal(number)
    assert _end(process) == expected


def test_what_is_held_is_asked_and_a_second_ctrl_c_ends_it_at_once():
    process = _start(
        f"with interruption.held():\n    print('ready', flush=True)\n    {BUSY}",
    )
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline().startswith("saving before exit; press Ctrl-C again")
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert _end(process) == (130, "interrupted\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_is_held_sees_that_it_is_asked_or_is_raised_out_of(number):
    process = _start(
        """
with interruption.held():
    print('ready', flush=True)
    while not interruption.is_asked:
        pass
    try:
        with interruption.at_once():
            pass
    except Interrupted:
        print('early', flush=True)
    interruption.is_asked = False
    try:
        with interruption.at_once():
            print('again', flush=True)
            while True:
                pass
    except Interrupted:
        print('raised', flush=True)
"""
    )
    process.send_signal(number)
    assert process.stdout.readline() == "early\n"
    assert process.stdout.readline() == "again\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "raised\n"
    assert _end(process)[0] == 0
