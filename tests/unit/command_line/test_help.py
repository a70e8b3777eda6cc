"""What people can ask: lists, explanations, what would run."""

from __future__ import annotations

import numpy as np
import pytest
from calls import Call, Outcome, refused

import mismatch_lab
from mismatch_lab.attribution.causes import CAUSES, load_cause, tells_apart
from mismatch_lab.engines.base import ENGINES
from mismatch_lab.faults import FAULTS
from mismatch_lab.findings.edges import EDGES
from mismatch_lab.measures import EDGE_MEASURES
from mismatch_lab.suites import probe_names


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("engines", list(ENGINES)),
        ("probes", probe_names()),
        ("measures", list(EDGE_MEASURES)),
        ("causes", list(CAUSES)),
        ("faults", list(FAULTS)),
    ],
)
def test_list_names_everything(lab: Call, what: str, names: list[str]) -> None:
    found = lab("list", what)
    assert (found.code, found.err) == (0, "")
    assert [line.split()[0] for line in found.out.splitlines()] == names
    assert all(len(line.split()) > 1 for line in found.out.splitlines())


def test_list_knows_what_there_is_to_list(lab: Call) -> None:
    refused(lab("list", "unicorns"), "unicorns", "engines", "probes", "causes", "faults")


@pytest.mark.parametrize(
    "name",
    [*probe_names(), "abs_delta_mean", "kl_infer_train_k3", *EDGES, *ENGINES,
     "numerics-floor", "stale-graph", "sinks-dropped"],
)  # fmt: skip
def test_explain_knows_every_name(lab: Call, name: str) -> None:
    found = lab("explain", name)
    assert (found.code, found.err) == (0, "")
    assert found.out.startswith(name)
    assert len(found.out.split()) > 3


def test_explain_lists_what_it_knows(lab: Call) -> None:
    refused(lab("explain", "love"), "'love'", "quick", "ess", "decode_train", "fsdp")


@pytest.mark.parametrize(
    ("name", "meant"),
    [("attention_sinks_dropped", "attention-sinks-dropped"), ("sinks", "attention-sinks-dropped"),
     ("retokenization", "retokenisation"), ("decode_prefil", "decode_prefill")],
)  # fmt: skip
def test_explain_suggests_what_comes_near(lab: Call, name: str, meant: str) -> None:
    refused(lab("explain", name), f"'{name}'", "Did you mean", meant)


def test_explain_says_all_there_is_of_a_cause(lab: Call) -> None:
    found = lab("explain", "logit-scale")
    said = " ".join(found.out.split())
    cause = load_cause("logit-scale")
    for part in (
        cause.title, cause.mechanism, cause.signature, cause.confirmation, cause.remedy,
        *cause.remedies, *cause.remedies.values(), *cause.sources, *cause.neighbours,
        tells_apart("logit-scale", "raw-logprobs-temperature"),
    ):  # fmt: skip
        assert part in said, part


def test_lists_keep_a_name_on_one_line_where_nobody_looks(
    lab: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    lines = lab("list", "causes").out.splitlines()
    assert len(lines) == len(CAUSES)
    assert " ".join(lines[0].split()) == (
        "raw-logprobs-temperature semantics "
        "The engine's log-probs ignore the temperature it samples with"
    )


def test_doctor_says_what_would_run(lab: Call) -> None:
    found = lab("doctor")
    assert (found.code, found.err) == (0, "")
    assert f"package   numpy {np.__version__}" in found.out
    assert "fake: ready" in found.out
    assert all(f" {name}: " in found.out for name in ENGINES)
    assert ", ".join(probe_names()) in found.out


def test_version(lab: Call) -> None:
    assert lab("--version") == Outcome(0, f"mismatch-lab {mismatch_lab.__version__}\n", "")


def test_help_names_every_command(lab: Call) -> None:
    found = lab("--help")
    assert found.code == 0
    for command in ("diagnose", "capture", "compare", "report", "list", "explain", "doctor"):
        assert command in found.out
