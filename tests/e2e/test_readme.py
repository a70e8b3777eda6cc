"""Every command in the code blocks of the README, of the chapters in docs/ and of the page of what
was measured is run as it stands there.

Placeholders get values: CHECKPOINT and OLD become models, `patch.py:apply` an example plugin; and
the small numpy engine stands in for the real ones, which have tests of their own. So have plugins,
weight updates and the scorecard: of those the plan is made, and the list. Training takes one step.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mismatch_lab.live.steps import Observed, StepFolder
from mismatch_lab.schema import Limits

sys.path.insert(0, str(Path(__file__).parents[1]))

import dump_writers

ROOT = Path(__file__).parents[2]
README, MEASURED = ROOT / "README.md", ROOT / "reports" / "published" / "README.md"
CHAPTERS = sorted((ROOT / "docs").glob("*.md"))
TEXTS = {page: page.read_text() for page in (README, *CHAPTERS, MEASURED)}
BLOCKS = [block for t in TEXTS.values() for block in re.findall(r"^```\n(.*?)^```", t, re.S | re.M)]
LINES = [line.split("  #")[0].strip() for block in BLOCKS for line in block.splitlines()]
COMMANDS = [line for line in LINES if line.startswith("mismatch-lab ")]
FAKE = ["--engine", "fake", "--trainer", "fake"]
SHORT = shlex.split(
    "--engine hf --steps 1 --set data.n_heldout=2 --set rollout.prompts=2 --set rollout.group=2"
)
"""One step of training, with transformers in the engine's place, and of a comparison one seed."""
OWN = f"{ROOT / 'examples/own_trainer.py'}:load"
PLUGIN = f"{ROOT / 'examples/plugins.py'}:drop_sinks"


def ready(command: str) -> list[str]:
    """Arguments with the placeholders filled in."""
    words = shlex.split(command)[1:]
    if words[0] == "scorecard":
        return [*words, "--list"]
    if words[0] == "train":
        words = [str(ROOT / word) if word.endswith(".toml") else word for word in words]
        return words + SHORT + (["--seeds", "1"] if "--compare" in words else [])
    if words[0] == "gate":
        fake = shlex.join(["fake-model", "--dtype", "float32", *FAKE])
        return [fake if "CHECKPOINT" in word else word for word in words]
    of_engine = ("--engine-arg", "--engine-config", "--engine-url")
    if any(option in words for option in of_engine) or words.count("--engine") > 1:
        words = [{"CHECKPOINT": "mini-gpt-oss", "sglang": "hf"}.get(word, word) for word in words]
        return [*words, "--dry-run"]  # options of real engines, and two of them: planned, not run
    if "--captures" in words:  # of the embedded model, by its reference
        return [word.replace("CHECKPOINT", "mini-gpt-oss") for word in words] + ["--budget", "0"]
    if "verl" in words:  # in an environment of its own: planned with the other one of their own
        words = [{"CHECKPOINT": "mini-gpt-oss", "verl": "trl"}.get(word, word) for word in words]
        return [*words, "--engine", "hf", "--dry-run"]
    if {"my_trainer.py:load", "trl"} & set(words):  # the real ones, and transformers as the engine
        words = [{"CHECKPOINT": "mini-gpt-oss", "my_trainer.py:load": OWN}.get(w, w) for w in words]
        return [*words, "--engine", "hf", "--max-tokens", "8"]
    real = "plugin" in command or "weights-before" in command
    model = "mini-gpt-oss" if real else "fake-model"
    words = [model if word in ("CHECKPOINT", "OLD") else word for word in words]
    words = [PLUGIN if ".py:" in word else word for word in words]
    words = ["fake" if word in ("vllm", "fsdp") else word for word in words]
    if words[0] != "diagnose":
        return words
    return [*words, "--dry-run"] if real else [*words, *FAKE]


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 8


DUMPS = {
    "nemo-rl": "logs/exp_001",
    "prime-rl": "outputs/run",
    "slime": "details",
    "miles": "details-of-miles",
    "skyrl": "exports",
}
"""Folders of the chapter on ingestion."""


def write_dumps(folder: Path, ids: np.ndarray, logp: np.ndarray) -> None:
    """The same rows in every format, where the commands look for them."""
    infer = logp.astype(np.float32)
    train = infer - np.float32(1e-6)
    rows = [
        dump_writers.Written(own.tolist(), (own % 10 > 2).tolist(), infer[at], train[at])
        for at, own in enumerate(ids)
    ]
    for name, where in DUMPS.items():
        dump_writers.WRITERS[name](folder / where, rows)
    for name in ("csv", "parquet"):
        dump_writers.WRITERS[name](folder, rows).rename(folder / f"rollouts.{name}")


@pytest.mark.timeout(600)
def test_the_commands_of_the_readme_run(tmp_path: Path) -> None:
    (tmp_path / "serve.yaml").write_text("generation-config: vllm\n", encoding="utf-8")
    ids, logp = np.arange(40).reshape(4, 10), np.linspace(-1, -0.1, 40).reshape(4, 10)
    sides = {"logp_infer": logp, "logp_train": logp - 1e-6}
    np.savez(tmp_path / "rollouts.npz", token_ids=ids, mask=ids % 10 > 2, **sides)
    write_dumps(tmp_path, ids, logp)
    alarmed = StepFolder(tmp_path, "mini-gpt-oss", "bfloat16", "recorded", "recorded", 2**30)
    step = Observed(2, ids, ids % 10 > 2, logp, logp - 1e-6).copied()
    alarmed.write("alarm-00000002-above-limit-rank-0", step)
    for words in dict.fromkeys(tuple(ready(command)) for command in COMMANDS):
        done = subprocess.run(
            [sys.executable, "-m", "mismatch_lab.cli", *words],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
        assert done.returncode == 0, f"{words}\n{done.stderr}"


def test_the_make_targets_of_the_readme_exist() -> None:
    targets = {line.split()[1] for line in LINES if line.startswith("make ")}
    makefile = (ROOT / "Makefile").read_text()
    assert targets >= {"diagnose", "test"}
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in targets)


def test_the_limits_in_the_readme_are_those_of_the_code() -> None:
    text = " ".join(" ".join(TEXTS[page] for page in (README, *CHAPTERS)).split())
    limits = Limits()
    assert f"error is more than {limits.floor_ratio:g} times that" in text
    assert limits.floor_typical_ratio == 2
    assert "more than twice that token by token" in text
    assert float(re.findall(r"limit \((\S+) nats\)", text)[0]) == limits.match_abs_delta_nats


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: f"{page.parent.name}-{page.stem}")
def test_what_the_pages_point_to_is_there(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)", TEXTS[page])
    assert len(targets) > 10 or page in CHAPTERS
    for file, heading in targets:
        target = (page.parent / file).resolve() if file else page
        assert target.is_file(), file
        if heading:
            slugs = {
                h.lower().replace(" ", "-") for h in re.findall(r"^#+ (.+)$", TEXTS[target], re.M)
            }
            assert heading in slugs


def test_every_chapter_is_pointed_to_by_the_readme() -> None:
    named = re.findall(r"\]\(docs/([^)#]+)\)", TEXTS[README])
    assert set(named) == {page.name for page in CHAPTERS}
    assert len(CHAPTERS) >= 5


def test_every_published_report_is_pointed_to() -> None:
    named = set(re.findall(r"\]\(([^)#/:]+)\)", TEXTS[MEASURED]))
    assert named == {file.name for file in MEASURED.parent.iterdir()} - {MEASURED.name}
