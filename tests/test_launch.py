"""Launch scripts: linted, and run with stand-ins for what they call. No cluster is touched."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
LAUNCH = ROOT / "launch"
# Scripts and the variables that each needs.
SCRIPTS = {
    script: dict(each.split("=") for each in variables.split())
    for script, variables in {
        "tpu_pod.sh": "TPU_NAME=t ZONE=z ACCELERATOR=v5litepod-16 NFS=n:/s",
        "gke.sh": "NAME=n IMAGE=registry/i CLAIM=c ACCELERATOR=a TOPOLOGY=4x4 HOSTS=4 CHIPS=4",
        "slurm.sbatch": "VENV=/v",
    }.items()
}
# One argument needs quotes, in a shell and in YAML.
ARGUMENTS = ["--config=configs/cifar10_gen.py", "--workdir=/mnt/a b", '--config.data.path="q"']


def _run(script, *arguments, **variables):
    """Runs a script where git and clusters cannot be asked."""
    environment = {"PATH": os.environ["PATH"], "LZN_COMMIT": "abc"} | variables
    command = ["bash", LAUNCH / script, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module")
def planned():
    """What each script would run."""
    results = {name: _run(name, *ARGUMENTS, "--dry-run", **own) for name, own in SCRIPTS.items()}
    assert [result.returncode for result in results.values()] == [0, 0, 0], results
    return {script: result.stdout for script, result in results.items()}


def test_scripts_pass_shellcheck():
    if not (program := Path(sys.executable).with_name("shellcheck")).exists():
        pytest.skip("needs shellcheck: pip install -e '.[dev]'")
    files = [LAUNCH / "common.sh", *(LAUNCH / name for name in SCRIPTS)]
    command = [program, "--external-sources", *files]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_missing_variable_or_config_is_one_line_and_help_names_all(script):
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
    result = _run(script, "--help")
    assert result.returncode == 2
    assert result.stderr.startswith("Trains ")
    assert all(name in result.stderr for name in variables)


def test_tpu_pod_creates_installs_and_trains_in_order(planned):
    lines = planned["tpu_pod.sh"].splitlines()
    tpu = "gcloud compute tpus tpu-vm"
    install = train = f"{tpu} ssh t --worker=all"
    starts = [f"{tpu} create t --accelerator-type=v5litepod-16", "git archive", f"{tpu} scp"]
    for line, start in zip(lines, [*starts, install, train], strict=True):
        assert line.startswith(start)
    assert _unquoted(lines[-1]).count("python -m lzn_jax.main --config=configs/cifar10_gen.py") == 1
    assert "LZN_COMMIT=abc" in lines[-1]
    # It brings a new enough Python.
    needed = re.search(r"python_requires=\">=(\d+)\.(\d+)", (ROOT / "setup.py").read_text())
    brought = re.search(r"uv venv .*?--python (\d+)\.(\d+)", lines[3])
    assert [int(n) for n in brought.groups()] >= [int(n) for n in needed.groups()]
    assert "apt-get install -qq -y -o DPkg::Lock::Timeout=" in lines[3]


def test_tpu_pod_ends_where_the_code_cannot_be_copied(tmp_path):
    code, calls = _pretend(tmp_path, "tpu_pod.sh", gcloud="[[ $what == scp ]] && exit 1")
    assert (code, calls) == (1, ["describe", "scp"])


def test_tpu_pod_waits_for_a_slice_after_a_preemption(tmp_path):
    gcloud = """
case $what in
    describe) case $n in 1) echo READY ;; 2 | 3) echo PREEMPTED ;; esac ;;
    create) exit $((n < 5)) ;;
    code) [[ $n == 1 ]] || echo 0 ;;
esac
exit"""
    code, calls = _pretend(tmp_path, "tpu_pod.sh", gcloud=gcloud, MAX_RESTARTS="1")
    assert code == 0
    counts = [calls.count(what) for what in ("delete", "create", "sleep", "train")]
    assert counts == [1, 5, 5, 2]


# The connection to a run is cut after its first line, and so is the next; it ends soon after LAST.
CUT = """
if [[ $what$n == train1 ]]; then
    mkfifo ~/pipe
    (cd && exec bash -c "$command") &> ~/pipe &
    head -n 1 ~/pipe
    exit 255
elif [[ $what$n == code1 ]]; then
    exit 255
elif [[ $what$n == LAST ]]; then
    (/bin/sleep 0.5; touch ~/over) &> /dev/null &
fi"""


def test_tpu_pod_waits_for_a_run_whose_connection_is_lost(tmp_path):
    code, calls = _pretend(tmp_path, "tpu_pod.sh", gcloud=CUT.replace("LAST", "code2"))
    assert code == 0
    expected = ["describe", "scp", "install", "train", "code", "describe", "code"]
    assert [call for call in calls if call != "sleep"] == expected
    assert (tmp_path / "runs").read_text().split() == ["start", "end"]
    assert (tmp_path / "lzn_jax" / "run.log").read_text().split() == ["first", "second", "third"]


def test_tpu_pod_does_not_install_over_a_run(tmp_path):
    no_answer = "[[ $what$n == describe2 ]] && exit 1"
    gcloud = CUT.replace("LAST", "install2") + f"\n{no_answer}"
    code, calls = _pretend(tmp_path, "tpu_pod.sh", gcloud=gcloud)
    assert code == 0
    assert calls.count("install") == 2
    assert (tmp_path / "runs").read_text().split() == ["start", "end"] * 2


def test_slurm_starts_the_same_command_on_every_task(planned):
    activate, srun = planned["slurm.sbatch"].splitlines()
    assert "/v/bin/activate" in activate
    assert srun.startswith("srun ")
    config, workdir, path = ARGUMENTS
    quoted = [config, workdir.replace(" ", "\\ "), path.replace('"', '\\"')]
    assert _unquoted(srun).endswith(f"exec python -m lzn_jax.main {' '.join(quoted)}")


def test_gke_applies_a_jobset_of_the_same_command(planned):
    text = planned["gke.sh"]
    before, _, rest = text.partition("kubectl apply --filename - <<END\n")
    manifest, _, after = rest.partition("\nEND\n")
    assert [line.split()[1] for line in before.splitlines()] == ["build", "push"]
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


def test_gke_waits_until_there_is_a_pod(tmp_path):
    kubectl = """
case $what in
    get) [[ $n -lt 3 ]] || echo pod/n ;;
    wait) [[ $(grep -cx get ~/calls) == 3 ]] ;;
esac"""
    code, calls = _pretend(tmp_path, "gke.sh", kubectl=kubectl)
    assert code == 0
    calls = [call for call in calls if call != "sleep"]
    assert calls == ["apply", "get", "get", "get", "wait", "logs", "get"]


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


COUNT = "echo $what >> ~/calls; n=$(grep -cx $what ~/calls)"
# A slice of one host, whose home this is; $what is asked for the $n-th time.
GCLOUD = f"""
what=$4 command=
for word; do [[ $word != --command=* ]] || command=${{word#--command=}}; done
case $command in
    *"uv venv"*) what=install ;;
    *LZN_COMMIT*) what=train ;;
    *run.code*) what=code ;;
esac
{COUNT}
ANSWERS
case $what in
    describe) echo READY ;;
    install | train | code) cd && exec bash -c "$command" ;;
esac"""
KUBECTL = f"""
what=$1
{COUNT}
ANSWERS"""
HOST = {
    "sleep": "echo sleep >> ~/calls; exec /bin/sleep 0.1",
    "git": "",
    "tar": "",
    "mountpoint": "",
    # As on a host that is at its own updates: the first update fails.
    "sudo": '[[ "$*" != "apt-get update"* ]] || ! mkdir ~/updated 2> /dev/null',
    "curl": '[[ "$*" != *agent-worker-number ]] || echo 0',
    "../.local/bin/uv": "[[ $1 != venv ]] || { mkdir -p venv/bin; touch venv/bin/activate; }",
    # Runs that others have on this machine do not count.
    "pgrep": f'exec {shutil.which("pgrep")} --session 0 "$@"',
    "python": """
echo start >> ~/runs
echo first
until [[ -e ~/over ]]; do /bin/sleep 0.1; done
echo second
/bin/sleep 0.5
echo third
echo end >> ~/runs""",
}


def _pretend(home, script, *, gcloud="", kubectl="", **variables):
    """Runs a script with stand-ins for what it calls: its exit code, and the calls in order."""
    programs = HOST | {
        "gcloud": GCLOUD.replace("ANSWERS", gcloud),
        "kubectl": KUBECTL.replace("ANSWERS", kubectl),
        "docker": "",
    }
    for name, code in programs.items():
        program = home / "bin" / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f"#!/usr/bin/env bash\n{code}\n")
        program.chmod(0o755)
    path = f"{home / 'bin'}:{os.environ['PATH']}"
    environment = {"HOME": str(home), "PATH": path, "LZN_COMMIT": "abc"} | SCRIPTS[script]
    command, environment = ["bash", LAUNCH / script, *ARGUMENTS], environment | variables
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        code = process.wait(timeout=120)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return code, (home / "calls").read_text().split()


def _unquoted(line):
    """A line of `printf %q` as the words that the shell would see."""
    said = subprocess.run(
        ["bash", "-c", f"printf '%s ' {line}"], capture_output=True, text=True, check=True
    )
    return said.stdout.rstrip(" ")
