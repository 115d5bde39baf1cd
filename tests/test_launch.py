"""Launch scripts: linted, and what they would run is looked at. No cluster is touched."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

LAUNCH = Path(__file__).parent.parent / "launch"
SCRIPTS = {
    "tpu_pod.sh": {"TPU_NAME": "t", "ZONE": "z", "ACCELERATOR": "v5litepod-16", "NFS": "n:/s"},
    "gke.sh": {
        "NAME": "n",
        "IMAGE": "registry/i",
        "CLAIM": "c",
        "ACCELERATOR": "tpu-v5-lite-podslice",
        "TOPOLOGY": "4x4",
        "HOSTS": "4",
        "CHIPS": "4",
    },
    "slurm.sbatch": {"VENV": "/v"},
}
# One argument needs quotes, in a shell and in YAML.
ARGUMENTS = ["--config=configs/cifar10_gen.py", "--workdir=/mnt/a b", '--config.data.path="q"']


def _run(script, *arguments, commit="abc", **variables):
    """Runs a script where git and clusters cannot be asked."""
    environment = {"PATH": os.environ["PATH"], "LZN_COMMIT": commit} | variables
    return subprocess.run(
        ["bash", LAUNCH / script, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture(scope="module")
def planned():
    """What each script would run."""
    results = {
        script: _run(script, *ARGUMENTS, "--dry-run", **variables)
        for script, variables in SCRIPTS.items()
    }
    assert [result.returncode for result in results.values()] == [0, 0, 0], results
    return {script: result.stdout for script, result in results.items()}


def test_scripts_pass_shellcheck():
    files = [LAUNCH / "common.sh", *(LAUNCH / name for name in SCRIPTS)]
    command = [Path(sys.executable).with_name("shellcheck"), "--external-sources", *files]
    result = subprocess.run(command, cwd=LAUNCH.parent, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_missing_variable_or_config_is_one_line(script):
    variables = SCRIPTS[script]
    for name in variables:
        left = {key: value for key, value in variables.items() if key != name}
        result = _run(script, *ARGUMENTS, "--dry-run", **left)
        assert (result.returncode, result.stdout) == (2, "")
        assert result.stderr.startswith(f"error: set {name} ")
        assert result.stderr.count("\n") == 1
    result = _run(script, "--dry-run", **variables)
    assert result.returncode == 2
    assert result.stderr == "error: say what to run: --config=configs/NAME.py\n"


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_the_comment_at_the_top(script):
    result = _run(script, "--help")
    assert result.returncode == 2
    assert result.stderr.startswith("Trains ")
    for name in SCRIPTS[script]:
        assert name in result.stderr


def test_tpu_pod_creates_installs_and_trains_in_order(planned):
    lines = planned["tpu_pod.sh"].splitlines()
    starts = [
        "gcloud compute tpus tpu-vm create t --accelerator-type=v5litepod-16",
        "git archive",
        "gcloud compute tpus tpu-vm scp",
        "gcloud compute tpus tpu-vm ssh t --worker=all",  # installs
        "gcloud compute tpus tpu-vm ssh t --worker=all",  # trains
    ]
    assert len(lines) == len(starts)
    for line, start in zip(lines, starts, strict=True):
        assert line.startswith(start)
    assert _unquoted(lines[-1]).count("python -m lzn_jax.main --config=configs/cifar10_gen.py") == 1
    assert "LZN_COMMIT=abc" in lines[-1]


def test_slurm_starts_the_same_command_on_every_task(planned):
    activate, srun = planned["slurm.sbatch"].splitlines()
    assert "/v/bin/activate" in activate
    assert srun.startswith("srun ")
    assert _unquoted(srun).endswith(f"exec {_inner()}")


def test_gke_applies_a_jobset_of_the_same_command(planned):
    text = planned["gke.sh"]
    before, _, rest = text.partition("kubectl apply --filename - <<END\n")
    manifest, _, after = rest.partition("\nEND\n")
    assert [line.split()[:2] for line in before.splitlines()] == [
        ["docker", "build"],
        ["docker", "push"],
    ]
    assert "kubectl logs --follow" in after
    assert "${" not in manifest
    jobset = yaml.safe_load(manifest)
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert (job["parallelism"], job["completions"]) == (4, 4)
    (container,) = job["template"]["spec"]["containers"]
    assert container["image"] == "registry/i:abc"
    assert container["command"][:2] == ["bash", "-c"]
    assert container["env"] == [{"name": "LZN_COMMIT", "value": "abc"}]
    words = ["-c", f'for word in {container["command"][2]}; do echo "$word"; done']
    said = subprocess.run(["bash", *words], capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == ["exec", "python", "-m", "lzn_jax.main", *ARGUMENTS]


def test_local_processes_get_their_numbers():
    command = [sys.executable, LAUNCH / "local_multiprocess.py", "--processes=2", "--devices=4"]
    result = subprocess.run(
        [*command, "--dry-run", "--", *ARGUMENTS], capture_output=True, text=True, timeout=60
    )
    lines = result.stdout.splitlines()
    assert len(lines) == 2
    for number, line in enumerate(lines):
        assert f"JAX_PROCESS_ID={number} " in line
        assert "JAX_NUM_PROCESSES=2 " in line
        assert "python -m lzn_jax.main --config=configs/cifar10_gen.py" in line
    assert subprocess.run([*command, "--", "--mode=train"], capture_output=True).returncode == 2


def _inner():
    quoted = [
        "--config=configs/cifar10_gen.py",
        "--workdir=/mnt/a\\ b",
        '--config.data.path=\\"q\\"',
    ]
    return f"python -m lzn_jax.main {' '.join(quoted)}"


def _unquoted(line):
    """A line of `printf %q` as the words that the shell would see."""
    said = subprocess.run(
        ["bash", "-c", f"printf '%s ' {line}"], capture_output=True, text=True, check=True
    )
    return said.stdout.rstrip(" ")
