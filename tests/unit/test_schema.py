"""The files of a run: what is not known is refused, and what is not a number survives JSON."""

from __future__ import annotations

import json
from math import inf, isnan, nan
from pathlib import Path

import pytest
from pydantic import ValidationError

from mismatch_lab.schema import (
    Cause,
    Confirmation,
    EstimateRecord,
    Findings,
    LayerRouting,
    Limits,
    Localisation,
    Manifest,
    ModuleError,
    NoiseFloor,
    Observation,
    Probe,
    Prompt,
    Provenance,
    Remedy,
    RoutingFindings,
    RunSpec,
    Sampling,
    SideSpec,
    Strict,
    Verdict,
    write_json,
)

ONE = EstimateRecord(value=0.5, n=10, n_dropped=1, ci95=(0.25, 0.75))
NOTHING = EstimateRecord(value=nan, n=0, n_dropped=10, ci95=(nan, nan))


def findings() -> Findings:
    """With every part there, and NaN and infinities where they may stand."""
    module = ModuleError(
        name="lm_head", kind="head", cumulative=inf, infer_error=0.5, diverges=True, n=3
    )
    cause = Cause(
        id="numerics-floor", family="precision", side="neither", confidence=1.0, location=None,
        evidence=[Observation(observation="o", value=-inf, expected="e")],
        confirmed_by=[Confirmation(experiment="x", before=1.0, after=nan)],
        remedy=Remedy(id="r", how="h"),
    )  # fmt: skip
    return Findings(
        run="r",
        edges={"decode_train": {"abs_delta_mean": ONE, "mean_delta": NOTHING}},
        noise_floor=NoiseFloor(
            method="m", precision=ONE, infer_repeat=ONE, train_repeat=ONE, infer_ratio=ONE,
            train_ratio=NOTHING, edge_ratio=ONE,
        ),
        routing=RoutingFindings(
            edge="prefill_train", top1_agreement=ONE, set_overlap=ONE, flipped_token_share=ONE,
            abs_delta_flipped=NOTHING, abs_delta_unflipped=ONE,
            per_layer=[LayerRouting(layer=0, top1_agreement=ONE, set_overlap=ONE)],
        ),
        localisation=Localisation(
            depth="deep", method="m", first_divergent_module="lm_head", side="undecided",
            per_module=[module],
        ),
        calibration=NOTHING,
        weights=["a.weight"],
        timings_s={"engine": 1.5},
        notes=["n"],
        verdict=Verdict(
            status="mismatch", headline="h", reasons=["r"], next_command="c", causes=[cause]
        ),
    )  # fmt: skip


def test_findings_come_back_as_they_were() -> None:
    text = findings().model_dump_json()
    assert Findings.model_validate_json(text).model_dump_json() == text
    assert Findings.model_validate(json.loads(text)).model_dump_json() == text


def test_json_is_json_without_nan_or_infinity() -> None:
    def refuse(name: str) -> float:
        raise AssertionError(name)

    data = json.loads(findings().model_dump_json(), parse_constant=refuse)
    assert data["schema_version"] == 1
    assert data["edges"]["decode_train"]["mean_delta"] == {
        "value": None, "n": 0, "n_dropped": 10, "ci95": [None, None],
    }  # fmt: skip
    assert data["edges"]["decode_train"]["abs_delta_mean"]["ci95"] == [0.25, 0.75]
    (module,) = data["localisation"]["per_module"]
    assert (module["cumulative"], module["isolated"]) == ("inf", None)
    assert data["verdict"]["causes"][0]["evidence"][0]["value"] == "-inf"


def test_what_was_not_measured_is_nan_again() -> None:
    back = Findings.model_validate_json(findings().model_dump_json())
    mean = back.edges["decode_train"]["mean_delta"]
    assert isnan(mean.value)
    assert isnan(mean.ci95[0])
    assert back.localisation is not None
    assert back.localisation.per_module[0].cumulative == inf
    assert back.verdict.causes[0].evidence[0].value == -inf


def _models() -> list[type[Strict]]:
    found, waiting = [], [Strict]
    while waiting:
        found.append(waiting.pop())
        waiting += found[-1].__subclasses__()
    return found[1:]


@pytest.mark.parametrize("model", _models(), ids=lambda m: m.__name__)
def test_no_model_takes_a_field_it_does_not_know(model: type[Strict]) -> None:
    with pytest.raises(ValidationError, match="extra_forbidden"):
        model.model_validate({"colour": "red"})


def test_there_are_models_to_check() -> None:
    assert {Findings, Manifest, RunSpec, Probe, Provenance, SideSpec} <= set(_models())


@pytest.mark.parametrize("model", [Findings, Manifest, RunSpec, Probe])
def test_files_have_a_version_and_this_reads_1(model: type[Strict]) -> None:
    assert model.model_fields["schema_version"].default == 1
    with pytest.raises(ValidationError, match="schema_version"):
        model.model_validate({"schema_version": 2})


def test_instances_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        ONE.value = 0.0  # type: ignore[misc]


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": 0}, {"top_p": 0}, {"top_p": 1.01}, {"max_tokens": 0}, {"temperature": nan}],
)
def test_sampling_has_bounds(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Sampling.model_validate(wrong)


@pytest.mark.parametrize(
    "wrong", [{"floor_ratio": 1.0}, {"min_rows": 1}, {"match_abs_delta_nats": 0.0}]
)
def test_limits_have_bounds(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Limits.model_validate(wrong)


@pytest.mark.parametrize("forms", [{}, {"text": "a", "token_ids": [1]}])
def test_a_prompt_has_one_form(forms: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="exactly one of messages, text, token_ids"):
        Prompt.model_validate({"id": "p", **forms})


def test_writing_replaces_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "findings.json"
    path.write_text("old and much longer than what comes now " * 1000)
    write_json(path, Sampling(temperature=0.5))
    assert Sampling.model_validate_json(path.read_text()) == Sampling(temperature=0.5)
    assert path.read_text().endswith("}\n")
    assert [p.name for p in tmp_path.iterdir()] == ["findings.json"]
