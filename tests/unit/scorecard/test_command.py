"""`mismatch-lab scorecard`: which cases are chosen, what is refused, what is made of results."""

from __future__ import annotations

import json
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mismatch_lab.cli import main
from mismatch_lab.executors import forked
from mismatch_lab.faults import FAULTS, load_fault
from mismatch_lab.faults.base import SEVERITIES, Fault
from mismatch_lab.faults.held_out import HELD_OUT, load_held_out
from mismatch_lab.faults.held_out_second import HELD_OUT_SECOND
from mismatch_lab.schema import Cause
from mismatch_lab.scorecard import command
from mismatch_lab.scorecard.cases import Planned
from mismatch_lab.scorecard.doubles import COUNT, OFTEN
from mismatch_lab.scorecard.judge import judge
from mismatch_lab.scorecard.models import HELD_OUT_ARCHITECTURES, SECOND_ARCHITECTURES
from mismatch_lab.scorecard.records import Case, CaseResult, Scorecard
from mismatch_lab.scorecard.run_case import Bench
from mismatch_lab.scorecard.select import CI_CASES, Selection, part_of, select
from mismatch_lab.scorecard.store import load_result, save_result

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def lab(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Call]:
    """Runs `mismatch-lab scorecard WORDS` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    before = signal.getsignal(signal.SIGTERM)

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mismatch-lab", "scorecard", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), *capfd.readouterr()

    yield call
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--subset", "sinks-droped"],
            ["'sinks-droped'", "ci, quick, broad, full", "sinks-dropped"],
        ),
        (["--part", "5/4"], ["--part 5/4", "I/N"]),
        (["--part", "0/4"], ["--part 0/4"]),
        (["--part", "half"], ["--part half"]),
        (["--models", "gpt-5"], ["'gpt-5'", "mini-gpt-oss, llama-yarn"]),
        (["--severity", "fatal"], ["'fatal'", "plain, medium, slight"]),
        (["--engine", "trl"], ["'trl'", "vllm, sglang, hf"]),
        (["--dtype", "fp8"], ["'fp8'"]),
        (["--out", "no/such/parent", "--subset", "ci"], ["no/such does not exist"]),
        (["--out", "a-file", "--subset", "ci"], ["a-file is a file"]),
        (["--out", "thesis", "--subset", "ci"], ["'chapter.tex'", "not a scorecard folder"]),
        (["--out", "nothing", "--render-only"], ["nothing is not a scorecard folder"]),
        (["--subset", "sinks-dropped", "--models", "gemma2"], ["No case is left", "--list"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_wrong_options_are_named(
    lab: Call, tmp_path: Path, words: list[str], said: list[str]
) -> None:
    (tmp_path / "a-file").write_text("")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("")
    code, out, err = lab("--checkpoints", tmp_path, *words)
    assert (code, out) == (2, "")
    assert "defect of mismatch-lab" not in err
    assert all(part in err for part in said), err


def test_list_prints_cases_and_runs_none(
    lab: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(command, "run_cases")
    code, out, err = lab("--list", "--subset", "ci", "--checkpoints", tmp_path)
    assert (code, err) == (0, "")
    assert set(out.splitlines()[:-1]) == set(CI_CASES)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def faults() -> list[Fault]:
    return [load_fault(name) for name in FAULTS]


@pytest.fixture(scope="module")
def full(faults: list[Fault], tmp_path_factory: pytest.TempPathFactory) -> list[Planned]:
    return select(Selection(), faults, "vllm", tmp_path_factory.mktemp("none"))


def test_the_full_card_is_what_was_asked_for(full: list[Planned], faults: list[Fault]) -> None:
    ids = [planned.case.id for planned in full]
    assert len(set(ids)) == len(ids)
    kinds = Counter(planned.case.kind for planned in full)
    assert kinds["double"] == COUNT >= 20
    assert kinds["control"] >= 10
    singles = [p.case for p in full if p.case.kind == "single"]
    assert {case.truths[0].fault for case in singles} == {fault.id for fault in faults}
    assert set(Counter(case.truths[0].severity for case in singles).values()) == {
        kinds["single"] // 3
    }
    assert len({case.model for case in singles}) == 4
    engines = {case.truths[0].fault: case.engine for case in singles}
    assert engines["sinks-dropped"] == engines["engine-sinks-dropped"] == "vllm"
    assert engines["stale-prefix-cache"] == "hf"  # vLLM does not do this wrong


def test_broad_and_quick_have_every_fault_on_architectures_in_turn(
    full: list[Planned], faults: list[Fault], tmp_path: Path
) -> None:
    broad = [p.case for p in select(Selection(("broad",)), faults, "vllm", tmp_path)]
    singles = [(c.truths[0].fault, c.truths[0].severity) for c in broad if c.kind == "single"]
    assert len(set(singles)) == len(singles) == 3 * len(faults)
    assert len(broad) - len(singles) == sum(p.case.kind != "single" for p in full)
    everywhere = {c.model for c in broad if c.kind == "single" and c.truths[0].fault == "top-p"}
    assert len(everywhere) == 3  # it applies to all four, and has three severities
    quick = [p.case for p in select(Selection(("quick",)), faults, "vllm", tmp_path)]
    plain = [c for c in quick if c.kind == "single"]
    assert {c.truths[0].severity for c in plain} == {"plain"}
    assert len(plain) == len(faults)
    assert len({c.model for c in plain}) == 4


def test_pairs_are_of_different_families_and_spread(full: list[Planned]) -> None:
    pairs = [p.case.truths for p in full if p.case.kind == "double"]
    assert all(a.families != b.families and not set(a.causes) & set(b.causes) for a, b in pairs)
    assert max(Counter(truth.fault for pair in pairs for truth in pair).values()) <= OFTEN
    assert Counter(a.sides == b.sides for a, b in pairs) == {True: COUNT // 2, False: COUNT // 2}
    assert ["sinks-dropped", "two-pass-training"] in [[a.fault, b.fault] for a, b in pairs]
    assert len({p.case.model for p in full if p.case.kind == "double"}) >= 3


def test_the_same_selection_is_the_same_card(
    full: list[Planned], faults: list[Fault], tmp_path: Path
) -> None:
    again = select(Selection(), faults[::-1], "vllm", tmp_path)
    pairs = [[p.case.id for p in card if p.case.kind == "double"] for card in (full, again)]
    assert pairs[0] == pairs[1]


def test_parts_are_the_whole_without_overlap(full: list[Planned]) -> None:
    parts = [part_of(full, f"{i}/3") for i in (1, 2, 3)]
    assert sorted(p.case.id for part in parts for p in part) == sorted(p.case.id for p in full)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_faults_of_vllm_alone_are_not_planted_in_transformers(
    faults: list[Fault], tmp_path: Path
) -> None:
    cases = [p.case for p in select(Selection(), faults, "hf", tmp_path)]
    assert all(case.id.endswith(".hf") for case in cases)  # results of engines are kept apart
    planted = {truth.fault for case in cases for truth in case.truths}
    assert "min-p" not in planted  # vLLM reads generation_config.json
    assert {"sinks-dropped", "top-p"} <= planted


def test_a_dtype_is_taken_where_the_fault_shows_in_it(faults: list[Fault], tmp_path: Path) -> None:
    cases = select(Selection(("single",), dtype="bfloat16"), faults, "vllm", tmp_path)
    dtypes = {p.case.truths[0].fault: p.case.dtype for p in cases}
    assert dtypes["sinks-dropped"] == "bfloat16"
    assert dtypes["lm-head-bf16"] == "float32"


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the cases that were run; each is answered with the truth."""
    ran: list[str] = []

    def run_case(case: object, _setup: object, bench: Bench, _on_event: object) -> CaseResult:
        assert isinstance(case, Case)
        ran.append(case.id)
        causes = [
            Cause(id=t.causes[0], family=t.families[0], side=t.sides[0], confidence=0.9,  # type: ignore[arg-type]
                  location=t.location, evidence=[])
            for t in case.truths
        ]  # fmt: skip
        status = "mismatch" if causes else "match"
        return CaseResult(
            case=case, judgement=judge(case, status, causes), causes=tuple(causes),  # type: ignore[arg-type]
            status=status, code=bench.code, diagnosis_s=40,  # type: ignore[arg-type]
        )  # fmt: skip

    monkeypatch.setattr(command, "run_case", run_case)
    monkeypatch.setattr(forked, "ENGINES", ())  # nothing is run that a server would be good for
    return ran


def test_a_card_goes_on_where_it_was_left(lab: Call, tmp_path: Path, answered: list[str]) -> None:
    asked = ("--subset", "ci", "--out", "card", "--checkpoints", tmp_path / "models")
    assert lab(*asked, "--part", "1/2")[0] == 0
    half = len(answered)
    assert 0 < half < len(CI_CASES)
    unfinished = Scorecard.model_validate_json((tmp_path / "card/scorecard.json").read_text())
    assert unfinished.planned == len(CI_CASES)
    assert "not finished" in (tmp_path / "card/scorecard.html").read_text()

    code, out, _ = lab(*asked, "--check")
    assert code == 0
    assert sorted(answered) == sorted(CI_CASES)  # none twice
    assert "both causes of double faults: 80%: 1 of 1" in out
    card = json.loads((tmp_path / "card/scorecard.json").read_text())
    assert card["by_severity"][-1]["shares"]["cause"] == {
        "right": 3, "n": 3, "value": 1.0, "ci95": pytest.approx([0.4385, 1.0], abs=1e-4),
    }  # fmt: skip
    assert "not finished" not in (tmp_path / "card/scorecard.html").read_text()

    lab(*asked, "--overwrite")
    assert len(answered) == 2 * len(CI_CASES)


def test_what_failed_is_tried_again_and_what_cannot_be_planted_is_not(
    lab: Call, tmp_path: Path, answered: list[str]
) -> None:
    asked = ("--subset", "ci", "--out", "card", "--checkpoints", tmp_path / "models")
    lab(*asked)
    answered.clear()
    for name, problem in ((CI_CASES[0], "out of memory"), (CI_CASES[1], "no such part")):
        result = load_result(tmp_path / "card" / "cases" / f"{name}.json")
        failed = {"judgement": None, "problem": problem, "not_applicable": "part" in problem}
        save_result(tmp_path / "card", result.model_copy(update=failed))
    _, out, _ = lab(*asked)
    assert answered == [CI_CASES[0]]
    assert f"none: {CI_CASES[1]}: no such part" in out


def test_a_card_is_rendered_of_what_there_is(
    lab: Call, tmp_path: Path, answered: list[str]
) -> None:
    asked = ("--subset", "ci", "--out", "card", "--checkpoints", tmp_path / "models")
    lab(*asked)
    answered.clear()
    spoilt = tmp_path / "card" / "cases" / f"{CI_CASES[1]}.json"
    result = load_result(spoilt)
    wrong = result.model_copy(
        update={"judgement": judge(result.case, "mismatch", []), "causes": (), "headline": "Hm <b>"}
    )
    save_result(tmp_path / "card", wrong)
    code, out, _ = lab(*asked, "--render-only")
    assert (code, answered) == (0, [])
    assert lab(*asked, "--render-only", "--check")[0] == 1
    assert f"miss: {result.case.truths[0].fault}" in out
    page = (tmp_path / "card/scorecard.html").read_text()
    assert "Hm &lt;b&gt;" in page
    assert "http" not in page.partition("</style>")[2]  # it asks for nothing else

    spoilt.write_text("{")
    code, _, err = lab(*asked, "--render-only")
    assert code == 2
    assert str(spoilt.name) in err


def test_held_out_cases_are_asked_for_by_name_alone(
    full: list[Planned], faults: list[Fault], tmp_path: Path
) -> None:
    unseen = {"held-out": [load_held_out(name) for name in HELD_OUT]}

    def chosen(name: str, *models: str) -> list[Case]:
        asked = Selection((name,), models=models)
        return [p.case for p in select(asked, faults, "vllm", tmp_path, unseen)]

    cases = chosen("held-out")
    assert {truth.fault for case in cases for truth in case.truths} == set(HELD_OUT)
    assert {case.model for case in cases} == {*HELD_OUT_ARCHITECTURES, "mini-gpt-oss"}
    alone = [case.control for case in cases if case.model == "qwen2" and case.control]
    assert alone == ["float32", "bfloat16"]
    assert not {case.id for case in cases} & {planned.case.id for planned in full}
    assert [case.id for case in chosen("full")] == [planned.case.id for planned in full]
    by_name = chosen("gqa-mapping", "phi3")
    assert [case.id for case in by_name] == [
        f"gqa-mapping.{severity}.phi3.fp32.hf" for severity in ("plain", "medium", "slight")
    ]


def test_the_second_held_out_set_has_each_fault_at_each_severity_once(
    full: list[Planned], faults: list[Fault], tmp_path: Path
) -> None:
    unseen = {"held-out-second": [load_held_out(name, HELD_OUT_SECOND) for name in HELD_OUT_SECOND]}
    asked = Selection(("held-out-second",))
    cases = [planned.case for planned in select(asked, faults, "vllm", tmp_path, unseen)]
    planted = sorted((t.fault, t.severity) for case in cases for t in case.truths)
    assert planted == sorted((n, s) for n in HELD_OUT_SECOND for s in SEVERITIES)
    assert {case.model for case in cases} == {*SECOND_ARCHITECTURES, "mini-gpt-oss"}
    controls = [case.id for case in cases if case.control]
    assert controls == [
        f"healthy.{dtype}.{model}.{short}"
        for dtype, short in (("float32", "fp32"), ("bfloat16", "bf16"))
        for model in SECOND_ARCHITECTURES
    ]
    assert not {case.id for case in cases} & {planned.case.id for planned in full}
