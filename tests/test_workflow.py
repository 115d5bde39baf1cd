"""The hosted CI runs what README and CONTRIBUTING say, without secrets or rights to write."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
WORKFLOW = yaml.safe_load(TEXT)


def _documented(page):
    """Lines of a page's bash blocks without comments."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    return {line.partition("  #")[0].rstrip() for block in blocks for line in block.splitlines()}


def _commands(job):
    return [step["run"] for step in WORKFLOW["jobs"][job]["steps"] if "run" in step]


def test_its_commands_are_the_documented_ones():
    assert _commands("readme")[1:] == [
        "python -m lzn_jax.main --config=configs/digits_joint.py",
        "pip install -e '.[test]' && pytest",
    ]
    assert set(_commands("readme")) <= _documented("README.md")
    assert set(_commands("lint") + _commands("all")) <= _documented("CONTRIBUTING.md")
    assert WORKFLOW["jobs"]["readme"]["strategy"]["matrix"]["python"] == ["3.11", "3.13"]


def test_pushes_run_all_jobs_but_the_weekly_one():
    conditions = {name: job["if"] for name, job in WORKFLOW["jobs"].items()}
    often = "github.event_name != 'schedule'"
    assert conditions == {"readme": often, "lint": often, "all": often.replace("!=", "==")}
    assert set(WORKFLOW[True]) == {"push", "pull_request", "schedule"}  # YAML reads `on` as true


def test_it_has_no_rights_and_no_secrets():
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert "permissions" not in str(WORKFLOW["jobs"])
    assert "secrets" not in TEXT
    checkouts = TEXT.count("actions/checkout@")
    assert TEXT.count("persist-credentials: false") == checkouts == len(WORKFLOW["jobs"])
