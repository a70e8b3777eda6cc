"""The gate as the examples of `examples/ci` use it, step by step; and the project's own gate."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from mismatch_lab.engines.interpreters import own_python
from mismatch_lab.gate.pytest_plugin import LogprobParity
from mismatch_lab.gate.rules import load_rules

ROOT = Path(__file__).parents[2]
CI = ROOT / "examples" / "ci"
EXAMPLES = ROOT / "examples" / "plugins.py"
OURS, PLANTED = (Path(__file__).with_name(name) for name in ("plugins.py", "gate_faults.py"))
LIMIT_S = 600

pytestmark = pytest.mark.timeout(900)


@pytest.mark.vllm
@pytest.mark.parametrize(
    ("dtype", "rules"),
    [
        pytest.param("float32", "own-float32.toml", marks=pytest.mark.long),
        ("bfloat16", "own-bfloat16.toml"),
    ],
    ids=["float32", "bfloat16"],
)
def test_this_project_keeps_its_own_parity(
    logprob_parity: LogprobParity, dtype: str, rules: str
) -> None:
    path = Path(__file__).with_suffix(".parity") / rules
    logprob_parity(
        "mini-gpt-oss", "--dtype", dtype, "--budget", "0",
        rules=path, baseline=dtype == "bfloat16",
    )  # fmt: skip


class Repository:
    """A user's: a folder in which the commands of an example run as CI would run them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / ".venv").symlink_to(Path(sys.prefix))
        self.env = os.environ | {"PYTHONPATH": str(ROOT), "CI": "true", "GITHUB_ACTIONS": "true"}
        self.env["GITHUB_STEP_SUMMARY"] = str(folder / "summary.md")

    def run(self, script: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-euc", script], cwd=self.folder, env=self.env | variables,
            capture_output=True, text=True, timeout=LIMIT_S, check=False,
        )  # fmt: skip

    def gate(self, model: str, *options: object) -> subprocess.CompletedProcess[str]:
        """The step `Gate` of the workflow."""
        shutil.rmtree(self.folder / "runs", ignore_errors=True)
        steps = yaml.safe_load((CI / "github.yml").read_text())["jobs"]["parity"]["steps"]
        (step,) = [step for step in steps if step.get("name") == "Gate"]
        return self.run(step["run"], MODEL=model, OPTIONS=shlex.join(map(str, options)))


QUICK = ("--engine", "hf", "--budget", "0")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


def accepted(repository: Repository, model: str, *options: str) -> None:
    script = f'.venv/bin/mismatch-lab gate --run "{model} {shlex.join(options)}" '
    done = repository.run(f"{script} --out runs/first --baseline ci/parity.json --accept")
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_workflow_passes_on_healthy_and_fails_on_a_planted_fault(
    repository: Repository,
) -> None:
    quick = (*QUICK, "--dtype", "float32")  # bfloat16 of one program twice is 0.03 floors with AMX
    accepted(repository, "mini-gpt-oss", *quick)
    healthy = repository.gate("mini-gpt-oss", *quick, "--seed", "3")
    assert healthy.returncode == 0, healthy.stderr[-3000:]
    assert healthy.stdout.startswith("passed: ")
    assert "::error" not in healthy.stderr
    broken = repository.gate("mini-gpt-oss", *quick, "--trainer-plugin", f"{EXAMPLES}:drop_sinks")
    assert broken.returncode == 1, broken.stderr[-3000:]
    assert broken.stdout.startswith("failed: verdict: Mismatch")
    assert "::error title=parity%3A verdict::failed" in broken.stderr
    cases = ElementTree.parse(repository.folder / "runs" / "parity.xml").getroot()[0]
    assert int(cases.attrib["failures"]) >= 1
    assert "failed" in (repository.folder / "summary.md").read_text()
    found = json.loads((repository.folder / "runs/parity/gate.json").read_text())
    assert {cause["side"] for cause in found["causes"]} == {"train"}
    assert f"cause: {found['causes'][0]['id']} (train" in broken.stdout
    assert (repository.folder / "runs/parity/report.html").stat().st_size > 50_000


FAULTS = {
    "trainer without sinks": ("--trainer-plugin", f"{OURS}:drop_sinks"),
    "trainer's values scaled": ("--trainer-plugin", f"{PLANTED}:scale_values"),
    "trainer's projection damaged": ("--trainer-plugin", f"{PLANTED}:noise_output"),
    "trainer's router biases": ("--trainer-plugin", f"{PLANTED}:forget_router_bias"),
    "routing in two passes": ("--trainer-plugin", f"{EXAMPLES}:seed_case"),
    "trainer's head in bf16": ("--dtype", "float32", "--trainer-plugin", f"{OURS}:head_in_bf16"),
    "rows packed without borders": ("--trainer-arg", "packing=true"),
    "engine without sinks": ("--engine-plugin", f"{OURS}:drop_sinks"),
    "engine's experts damaged": ("--engine-plugin", f"{PLANTED}:noise_experts"),
    "engine's logits scaled": ("--engine-plugin", f"{PLANTED}:scale_logits"),
    "engine's rotary base": ("--engine-plugin", f"{PLANTED}:slow_rotary"),
}


@pytest.mark.long
@pytest.mark.parametrize("fault", FAULTS)
def test_the_workflow_fails_on_each_planted_fault(repository: Repository, fault: str) -> None:
    dtype = ("--dtype", "float32") if "float32" in FAULTS[fault] else ()
    accepted(repository, "mini-gpt-oss", *QUICK, *dtype)
    broken = repository.gate("mini-gpt-oss", *QUICK, *FAULTS[fault])
    assert broken.returncode == 1, (broken.stdout, broken.stderr[-3000:])
    assert broken.stdout.startswith("failed: ")


@pytest.mark.long
@pytest.mark.sglang
def test_the_workflow_fails_on_a_swapped_transformers_whose_attention_differs(
    repository: Repository, gemma2: Path
) -> None:
    """Gemma-2's softcap: the eager attention of one version, the SDPA of another, without it."""
    both = (*QUICK, "--dtype", "float32", "--engine-arg", "attn_implementation=eager")
    eager = (*both, "--trainer-arg", "attn_implementation=eager")
    accepted(repository, str(gemma2), *eager)
    other = own_python("sglang")
    assert other is not None
    swapped = (*both, "--trainer-arg", "attn_implementation=sdpa", "--trainer-python", str(other))
    broken = repository.gate(str(gemma2), *swapped)
    assert broken.returncode == 1, (broken.stdout, broken.stderr[-3000:])


def test_the_other_examples_say_what_the_workflow_says() -> None:
    workflow = yaml.safe_load((CI / "github.yml").read_text())
    job = yaml.safe_load((CI / "gitlab.yml").read_text())["parity"]
    assert job["variables"] == workflow["env"]
    steps = workflow["jobs"]["parity"]["steps"]
    (gate,) = [step["run"] for step in steps if step.get("name") == "Gate"]
    assert shlex.split(job["script"][-1]) == [w for w in shlex.split(gate) if w.strip()]
    assert load_rules(CI / "rules.toml").baseline
    hook = yaml.safe_load((CI / "pre-commit.yaml").read_text())["repos"][0]["hooks"][0]
    assert shlex.split(hook["entry"])[:2] == ["mismatch-lab", "gate"]


def test_the_pytest_example(tmp_path: Path) -> None:
    """Without a baseline it fails, accepting writes it and fails, then it passes."""
    test = shutil.copy(CI / "test_parity.py", tmp_path)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["-p", "mismatch_lab.gate.pytest_plugin"] if not installed() else []
    command += ["-k", "samples_what_we_train", f"--rootdir={tmp_path}", str(test)]

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *options], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True, text=True, timeout=LIMIT_S, check=False,
        )  # fmt: skip

    missing = run()
    assert missing.returncode == 1
    assert "does not exist" in missing.stdout
    wrote = run("--parity-accept")
    assert wrote.returncode == 1
    assert "accepted: " in wrote.stdout
    assert "report: " in wrote.stdout
    passed = run(f"--junitxml={tmp_path / 'junit.xml'}")
    assert passed.returncode == 0, passed.stdout[-3000:]
    assert 'name="parity_report"' in (tmp_path / "junit.xml").read_text()


def installed() -> bool:
    """Whether pytest loads the plugin by itself."""
    from importlib.metadata import entry_points

    return any(e.name == "mismatch_lab" for e in entry_points(group="pytest11"))
