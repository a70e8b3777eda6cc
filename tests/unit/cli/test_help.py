"""What people can ask: lists, explanations, what would run."""

from __future__ import annotations

import re

import numpy as np
import pytest
from calls import Call, Outcome, refused

import mismatch_lab
from mismatch_lab.attribution.causes import CAUSES, load_cause, tells_apart
from mismatch_lab.attribution.experiments import EXPERIMENTS
from mismatch_lab.cli.explain_engine import options_of
from mismatch_lab.engines.base import ENGINES
from mismatch_lab.engines.options import OPTIONS, SET_BY_US, FsdpOptions
from mismatch_lab.engines.settings import DEFAULTS, HOOKABLE, ON_CPU
from mismatch_lab.engines.sglang_options import NOT_ON_CPU, OURS
from mismatch_lab.faults import FAULTS
from mismatch_lab.findings.edges import EDGES
from mismatch_lab.ingest.formats import FORMATS
from mismatch_lab.measures import EDGE_MEASURES
from mismatch_lab.probes.suites import probe_names
from mismatch_lab.remedies import REMEDIES


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("engines", list(ENGINES)),
        ("probes", probe_names()),
        ("measures", list(EDGE_MEASURES)),
        ("causes", list(CAUSES)),
        ("faults", list(FAULTS)),
        ("formats", list(FORMATS)),
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
     *CAUSES, *FAULTS, *REMEDIES, *(one.id for one in EXPERIMENTS)],
)  # fmt: skip
def test_explain_knows_every_name(lab: Call, name: str) -> None:
    found = lab("explain", name)
    assert (found.code, found.err) == (0, "")
    assert found.out.startswith(name)
    assert len(found.out.split()) > 3


def test_explain_lists_what_it_knows(lab: Call) -> None:
    refused(lab("explain", "love"), "'love'", "quick", "measures", "decode_train", "fsdp")


@pytest.mark.parametrize(
    ("name", "meant"),
    [("attention_sinks_dropped", "attention-sinks-dropped"), ("sinks", "attention-sinks-dropped"),
     ("retokenization", "retokenisation"), ("decode_prefil", "decode_prefill"),
     ("stock-atention", "stock-attention"), ("fp32_head", "fp32-head")],
)  # fmt: skip
def test_explain_suggests_what_comes_near(lab: Call, name: str, meant: str) -> None:
    refused(lab("explain", name), f"'{name}'", "Did you mean", meant)


def test_a_name_of_two_things_is_explained_as_both(lab: Call) -> None:
    found = lab("explain", "kv-cache-dtype").out
    assert "planted in infer" in found
    assert "tried on the engine itself" in found


def test_suggestions_are_not_doubled(lab: Call) -> None:
    said = lab("explain", "attention-softcpa").err
    assert len(re.findall(r"(?<![-\w])attention-softcap", said)) == 1


@pytest.mark.parametrize("engine", ["fsdp", "hf", "http", "fake"])
def test_explain_says_every_option_of_ours_with_its_default(lab: Call, engine: str) -> None:
    said = " ".join(lab("explain", engine).out.split())
    for name, default, does in options_of(OPTIONS[engine]):
        assert f"{name} {default}" in said
        assert does or engine == "fake", name
        assert " ".join(does.split()[:3]) in said


def test_options_are_described_by_what_stands_below_them() -> None:
    found = {name: (default, does) for name, default, does in options_of(FsdpOptions)}
    assert found["packing"][0] == "false"  # inherited
    assert found["world_size"] == ("1", "Ranks; each is a process.")


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_explain_says_what_a_program_is_started_with(lab: Call, engine: str) -> None:
    said = " ".join(lab("explain", engine).out.split())
    for name, value in DEFAULTS[engine].items():
        assert (
            f"{name} {value or '(none)' if isinstance(value, str) else str(value).lower()}" in said
        )
    for name, (_, why) in ON_CPU[engine].items():
        assert name in said
        assert " ".join(why.split()[:3]) in said
    assert all(name in said for name in (*HOOKABLE[engine], *SET_BY_US))
    if engine == "sglang":
        assert all(name in said for name in (*OURS, *NOT_ON_CPU))


@pytest.mark.parametrize(
    "command",
    ["diagnose", "capture", "compare", "ingest", "gate", "report", "list", "explain", "scorecard",
     "train", "doctor"],
)  # fmt: skip
def test_help_ends_with_examples_that_are_commands(lab: Call, command: str) -> None:
    found = lab(command, "--help")
    assert found.code == 0
    _, _, after = found.out.partition("\nExamples:\n")
    lines = after.strip().splitlines()
    assert 1 <= len(lines) <= 3
    assert all(line.strip().startswith(f"mismatch-lab {command}") for line in lines)
    options = re.findall(r"(?<= )--[a-z-]+", after)
    before = found.out.partition("\nExamples:\n")[0]
    assert all(option in before or option == "--dtype" for option in options)


@pytest.mark.parametrize("command", ["diagnose", "train"])
def test_help_has_its_options_in_groups(lab: Call, command: str) -> None:
    lines = lab(command, "--help").out.splitlines()
    heads = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert len(heads) >= 6
    assert heads[-2:] == ["Output and errors:", "Examples:"]
    assert "Options:" not in heads


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
