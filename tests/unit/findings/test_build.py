"""Findings of a run from its captures, and the command that is suggested next."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hand_made import capture

from mismatch_lab.captures.capture import Capture
from mismatch_lab.captures.draws import Draws
from mismatch_lab.captures.fingerprint import fingerprint_array
from mismatch_lab.captures.store import save_capture
from mismatch_lab.findings.build import (
    build_findings,
    load_captures,
)
from mismatch_lab.findings.next_command import next_command
from mismatch_lab.findings.verdict import Decision
from mismatch_lab.measures.suppositions import FAMILIES
from mismatch_lab.schema import Depth, Manifest, Prompt, RunSpec, Status

ROWS = 4
LIMITS = {"min_tokens": 8, "min_rows": 4}


def run(
    command: tuple[str, ...] = ("mismatch-lab", "diagnose"),
    depth: Depth = "quick",
    dtype: str = "bfloat16",
    probe: str = "quick",
) -> RunSpec:
    def side(name: str) -> dict[str, str]:
        return {"side": name, "engine": "fake", "model": "m", "dtype": dtype}

    return RunSpec.model_validate(
        {
            "id": "a-run",
            "probe": {
                "name": probe, "title": "", "why": "", "limits_reason": "", "limits": LIMITS,
                "prompts": {"set": "p.jsonl", "count": 1}, "sampling": {"max_tokens": 64},
            },
            "depth": depth,
            "infer": side("infer"), "train": side("train"), "ref": side("ref"),
            "prompts": [],
            "provenance": {
                "created": "", "command": list(command), "host": "", "cpu": "", "cpu_count": 1,
                "python": "", "packages": {},
            },
        }
    )  # fmt: skip


def captures(**levels: float) -> dict[str, Capture]:
    """Four rows of three tokens at these log-probs; a ramp keeps correlations defined."""
    return {
        name: capture(*[[level, level - 0.5, level - 1.0]] * ROWS) for name, level in levels.items()
    }


HEALTHY = {
    "decode": -1.0, "prefill": -1.0, "prefill_repeat": -1.0, "train": -1.0, "train_repeat": -1.0,
    "train_micro_batch": -1.0, "train_mode": -1.0, "ref": -1.0, "floor": -1.0,
}  # fmt: skip


# ---- All of it ---------------------------------------------------------------------------------


def test_sides_that_agree_to_the_bit_match() -> None:
    found = build_findings(run(), captures(**HEALTHY), {"engine": 1.5})
    assert found.verdict.status == "match"
    assert (found.run, found.timings_s) == ("a-run", {"engine": 1.5})
    assert len(found.edges) == 9
    assert found.edges["decode_train"]["abs_delta_mean"].value == 0.0
    assert found.noise_floor is not None
    assert found.routing is found.localisation is None


def test_a_side_at_eight_times_the_floor_is_a_mismatch() -> None:
    # Floor 0.0625, trainer 0.5 from the reference, engine on it.
    found = build_findings(run(), captures(**HEALTHY | {"floor": -1.0625, "train": -1.5}), {})
    assert found.verdict.status == "mismatch"
    assert found.noise_floor is not None
    assert (found.noise_floor.infer_ratio.value, found.noise_floor.train_ratio.value) == (0, 8)


def test_weights_and_calibration_are_there_when_recorded() -> None:
    made = captures(**HEALTHY)
    head = np.ones((2, 2), np.float32)
    # At 3/4 and 1/4 the entropy is ln 4 - 0.75 ln 3 = 0.5623 and the variance of a log-prob is
    # 3/16 (ln 3)^2 = 0.2263. Each row's log-probs add up to -4.5, so
    # z = 4 (-4.5 + 3 * 0.5623) / sqrt(12 * 0.2263) = -6.828.
    rows = made["prefill"].rows
    coin = [np.where(rows.sampled, x, np.nan).astype(np.float32) for x in (0.56234, 0.22630)]
    nothing = {name: np.zeros((ROWS, 3, len(family.values))) for name, family in FAMILIES.items()}
    draws = Draws(coin[0], coin[1], nothing, np.zeros(16, np.float32))
    one = {"lm_head.weight": fingerprint_array(head)}
    made["prefill"] = replace(made["prefill"], weights=one, draws=draws)
    other = {"lm_head.weight": fingerprint_array(head * (1 + np.float32(2**-23)))}
    made["train"] = replace(made["train"], weights=other)
    found = build_findings(run(), made, {})
    assert found.weights == ["lm_head.weight"]
    assert found.calibration is not None
    assert found.calibration.n == ROWS * 3
    assert found.calibration.value == pytest.approx(-6.828, abs=1e-3)
    assert found.drawn is not None
    assert found.drawn.z == found.calibration.value
    assert found.drawn.n == ROWS * 3
    assert {s.name for s in found.drawn.suppositions} == {*FAMILIES, "never_drawn"}


def test_what_a_killed_run_left_half_written_is_no_capture(tmp_path: Path) -> None:
    manifest = Manifest(
        id="decode", side="infer", engine="fake", engine_version="", model="m", dtype="float32",
        sampling=None, logprob_space="raw", patched=[], host="", packages={}, rows=1, tokens=2,
        wall_s=0.0, arrays_sha256="",
    )  # fmt: skip
    for name in ("decode", ".prefill.x1.partial"):
        save_capture(tmp_path / "captures" / name, capture([-1.0]), manifest)
    assert load_captures(tmp_path).keys() == {"decode"}
    assert load_captures(tmp_path / "nothing") == {}


# ---- The next command --------------------------------------------------------------------------


def after(status: Status, spec: RunSpec) -> list[str]:
    return shlex.split(next_command(spec, Decision(status, "", [], [])))


ASKED = ("mismatch-lab", "diagnose", "my model", "--engine", "fake", "--engine-arg", "a=b c")
"""As typed, but for options of one run."""


@pytest.mark.parametrize(
    ("status", "spec", "more"),
    [
        ("mismatch", run(ASKED, "quick"), ["--depth", "standard"]),
        ("mismatch", run(ASKED, "standard"), ["--depth", "deep"]),
        ("mismatch", run(ASKED, "deep"), ["--dtype", "float32"]),
        ("numerics", run(ASKED), ["--dtype", "float32"]),
        ("numerics", run(ASKED, dtype="float32"), ["--probe", "long-context"]),
        ("underpowered", run(ASKED), ["--max-tokens", "256"]),
        ("match", run(ASKED), ["--probe", "long-context"]),
        ("match", run(ASKED, probe="long-context"), ["--probe", "temperature"]),
    ],
)
def test_it_is_the_users_own_with_one_option_changed(
    status: Status, spec: RunSpec, more: list[str]
) -> None:
    assert after(status, spec) == [*ASKED, *more]


def test_too_few_prompts_are_mended_by_a_probe_with_enough_of_them() -> None:
    typed = (*ASKED, "--prompts", "one.jsonl", "--max-tokens", "4")
    one = run(typed).model_copy(update={"prompts": [Prompt(id="1", text="a")]})
    assert after("underpowered", one) == [*ASKED, "--probe", "standard"]


def test_after_an_error_the_installation_is_looked_at() -> None:
    assert after("error", run(ASKED)) == ["mismatch-lab", "doctor"]


def test_words_are_quoted_for_a_shell() -> None:
    text = next_command(run(("x", "diagnose", "it's $HOME")), Decision("numerics", "", [], []))
    assert shlex.split(text)[2] == "it's $HOME"
    assert text.startswith("mismatch-lab diagnose 'it'")


@pytest.mark.parametrize(
    "once",
    [
        ["--out", "runs/a b"],
        ["--out=runs/a"],
        ["--overwrite"],
        ["--json"],
        ["--debug"],
        ["--depth", "quick"],
        ["--depth=quick"],
        ["--overwrite", "--out", "x", "--depth", "quick", "--json"],
    ],
    ids=" ".join,
)
def test_options_of_one_run_are_dropped_and_the_changed_one_replaced(once: list[str]) -> None:
    command = ("mismatch-lab", "diagnose", *once, "m", "--seed", "3")
    assert after("mismatch", run(command)) == [
        "mismatch-lab", "diagnose", "m", "--seed", "3", "--depth", "standard",
    ]  # fmt: skip


def test_a_value_that_looks_like_an_option_is_kept() -> None:
    command = ("mismatch-lab", "diagnose", "--engine-arg", "depth=quick", "--out", "--json", "m")
    # `--json` is the value of --out here, and goes with it.
    assert after("mismatch", run(command)) == [
        "mismatch-lab", "diagnose", "--engine-arg", "depth=quick", "m", "--depth", "standard",
    ]  # fmt: skip


def test_without_a_command_it_is_diagnose() -> None:
    assert after("numerics", run(())) == ["mismatch-lab", "diagnose", "--dtype", "float32"]
