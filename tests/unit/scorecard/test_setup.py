"""Setups: merging, neutral files, edited checkpoints, and what the tool gets to see."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mismatch_lab.captures.capture import Capture, Rows
from mismatch_lab.captures.store import load_capture, save_capture
from mismatch_lab.engines.plugin import load_plugin
from mismatch_lab.engines.settings import PLAIN_VLLM
from mismatch_lab.errors import InputError
from mismatch_lab.faults import FAULTS, load_fault
from mismatch_lab.faults.base import SEVERITIES, Fault
from mismatch_lab.schema import Manifest
from mismatch_lab.scorecard.cases import read_model, singles
from mismatch_lab.scorecard.controls import CONTROLS
from mismatch_lab.scorecard.plant import healthy, planted
from mismatch_lab.scorecard.records import Case
from mismatch_lab.scorecard.run_case import Bench, build_case_run
from mismatch_lab.scorecard.setup import (
    PluginCall,
    Setup,
    edited_checkpoint,
    merged,
    plugin_file,
)
from mismatch_lab.scorecard.store import WORK

HERE = "mismatch_lab.scorecard.healthy"
MINI = "mini-gpt-oss"


def test_two_setups_at_once() -> None:
    first = Setup(temperature=0.7, engine_args={"a": 1}, checkpoint_edits=(("x", str),))  # type: ignore[arg-type]
    second = Setup(seed=2, engine_args={"b": 2}, checkpoint_edits=(("y", str),), updated=True)  # type: ignore[arg-type]
    both = merged(first, second)
    assert (both.temperature, both.seed, both.updated) == (0.7, 2, True)
    assert both.engine_args == {"a": 1, "b": 2}
    assert [name for name, _ in both.checkpoint_edits] == ["x", "y"]


@pytest.mark.parametrize(
    "second", [Setup(temperature=0.8), Setup(engine_args={"a": 2})], ids=["field", "option"]
)
def test_setups_that_want_different_things_cannot_be_merged(second: Setup) -> None:
    with pytest.raises(InputError, match="want different"):
        merged(Setup(temperature=0.7, engine_args={"a": 1}), second)


def test_a_plugin_makes_its_calls_in_order_and_the_same_calls_are_the_same_file(
    tmp_path: Path,
) -> None:
    calls = (PluginCall("operator", "iadd", ["a"]), PluginCall("operator", "iadd", ["b"]))  # type: ignore[arg-type]
    reference = plugin_file(calls, tmp_path)
    assert reference is not None
    model: list[str] = []
    load_plugin(reference)(model)
    assert model == ["a", "b"]
    assert plugin_file(calls, tmp_path) == reference
    assert plugin_file(calls[::-1], tmp_path) != reference
    assert plugin_file((), tmp_path) is None


def test_a_plugin_can_be_given_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "it's"
    reference = plugin_file((PluginCall("operator", "iadd", folder),), tmp_path)
    text = Path(str(reference).rpartition(":")[0]).read_text()
    assert f"step_0(model, Path({str(folder)!r}))" in text


def test_what_cannot_be_imported_is_no_plugin() -> None:
    with pytest.raises(InputError, match="no function"):
        PluginCall(HERE, "nothing")


def test_an_edited_checkpoint_is_a_copy_made_once(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text("{}")
    edits: list[Path] = []

    def edit(folder: Path) -> None:
        edits.append(folder)
        (folder / "config.json").write_text('{"a": 1}')

    setup = Setup(checkpoint_edits=(("secret-name", edit),))
    copy = edited_checkpoint(str(source), setup, tmp_path / "work")
    assert (Path(copy) / "config.json").read_text() == '{"a": 1}'
    assert (source / "config.json").read_text() == "{}"
    assert "secret" not in copy
    assert edited_checkpoint(str(source), setup, tmp_path / "work") == copy
    assert len(edits) == 1
    other = Setup(checkpoint_edits=(("other", edit),))
    assert edited_checkpoint(str(source), other, tmp_path / "work") != copy
    assert edited_checkpoint(str(source), Setup(), tmp_path / "work") == str(source)


def test_a_failed_edit_leaves_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()

    def fail(_folder: Path) -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        edited_checkpoint(
            str(tmp_path / "source"), Setup(checkpoint_edits=(("x", fail),)), tmp_path / "work"
        )
    assert list((tmp_path / "work" / "checkpoints").iterdir()) == []


def glue(target: str) -> Fault:
    """Halves the log-probs of the last row it handles."""

    def rewrite(capture: Capture, factor: float) -> Capture:
        logp = capture.logp.copy()
        logp[capture.rows.row_offsets[-2] :] *= factor
        return replace(capture, logp=logp)

    return Fault(
        id="halved", about="", causes=("x",), family="precision", side="train", kind="capture",
        severities={"plain": 0.5, "medium": 0.5, "slight": 0.5}, target=target, rewrite=rewrite,  # type: ignore[arg-type]
    )  # fmt: skip


def save(folder: Path, side: str, rows: int) -> None:
    """Rows of three tokens with log-probs -1 and -2."""
    tokens = Rows.build([[1, 2, 3]] * rows, [1] * rows, [[False, True, True]] * rows)
    manifest = Manifest.model_validate(
        {
            "id": folder.name, "side": side, "engine": "fake", "engine_version": "", "model": "",
            "dtype": "float32", "sampling": None, "logprob_space": "raw", "patched": [],
            "host": "", "packages": {}, "rows": rows, "tokens": 3 * rows, "wall_s": 0.25,
            "arrays_sha256": "",
        }
    )  # fmt: skip
    logp = np.tile(np.array([np.nan, -1.0, -2.0], np.float32), rows)
    save_capture(folder, Capture(tokens, logp), manifest)


def lost(folder: Path) -> list[int]:
    """Rows whose log-probs are halved; the capture's checksum must hold."""
    capture, manifest = load_capture(folder)
    assert manifest.patched == []
    return [row for row, first in enumerate(capture.logp[1::3]) if first == -0.5]


def test_captures_are_stored_anew_as_the_broken_glue_would_have(tmp_path: Path) -> None:
    for name, side, rows in (
        ("decode", "infer", 3), ("prefill", "infer", 3), ("train", "train", 3),
        ("train_repeat", "train", 2), ("train_again", "train", 3), ("train_on_infer", "train", 3),
    ):  # fmt: skip
        save(tmp_path / name, side, rows)
    ((task, edit),) = planted(glue("decode"), "plain", MINI).capture_edits
    assert task == "engine"
    edit(tmp_path)
    assert lost(tmp_path / "decode") == [2]
    assert lost(tmp_path / "prefill") == []  # the engine's re-scoring does not pass the same way

    ((task, edit),) = planted(glue("train"), "plain", MINI).capture_edits
    assert task == "trainer"
    edit(tmp_path)
    assert lost(tmp_path / "train") == lost(tmp_path / "train_again") == [2]
    assert lost(tmp_path / "train_repeat") == []  # row 2 of the three is not among its two
    assert lost(tmp_path / "train_on_infer") == []
    assert lost(tmp_path / "decode") == [2]


def test_nothing_in_a_run_names_what_is_planted(tmp_path: Path) -> None:
    bench = Bench(tmp_path, find_model=str)
    model = read_model(MINI, tmp_path)
    faults = [load_fault(name) for name in FAULTS]
    plain = [p for p in singles(faults, [model], "vllm", None) if ".plain." in p.case.id]
    assert len(plain) > 40
    for entry in plain:
        (truth,) = entry.case.truths
        fault = load_fault(truth.fault)
        setup = entry.setup(MINI)
        if setup.checkpoint_edits:  # copying it is not what is tried here
            setup = Setup(**vars(setup) | {"checkpoint_edits": (), "updated": False})
        run = build_case_run(entry.case, MINI, setup, bench)
        # The rest is the same in every run; what the side is told is not.
        said = run.model_dump_json(exclude={"probe", "prompts", "provenance"})
        # An option of the program itself (kv_cache_dtype) is given in the open, as in the field.
        does = fault.plant or fault.rewrite or fault.update
        hidden = () if fault.kind == "options" or does is None else (does.__name__,)
        for word in (truth.fault, *hidden, fault.about, *truth.causes, "faults", "plain"):
            assert word not in said, (truth.fault, word)


def test_gemma_runs_with_its_softcap_unless_that_is_what_is_planted(tmp_path: Path) -> None:
    case = Case(id="c", kind="control", model="gemma2", dtype="float32", engine="vllm", control="x")
    bench = Bench(tmp_path, find_model=str)
    run = build_case_run(case, MINI, Setup(trainer_args={"micro_batch": 2}), bench)
    assert run.train.args == {"attn_implementation": "eager", "micro_batch": 2}
    assert run.infer.args == PLAIN_VLLM  # vLLM has no such option
    dropped = Setup(trainer_args={"attn_implementation": "sdpa"})
    assert build_case_run(case, MINI, dropped, bench).train.args == dropped.trainer_args


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_can_be_set_up_at_every_severity(name: str, tmp_path: Path) -> None:
    for severity in SEVERITIES:
        setup = planted(load_fault(name), severity, MINI)
        assert setup != Setup()
        plugin_file(setup.engine_plugin, tmp_path / WORK)
        plugin_file(setup.trainer_plugin, tmp_path / WORK)


def test_every_control_can_be_set_up() -> None:
    for name, control in CONTROLS.items():
        changed = healthy(control) != Setup()
        assert changed == (name not in ("float32", "bfloat16")), name
    assert sum(len(control.models) for control in CONTROLS.values()) >= 10


def test_sharpening_doubles_the_logits(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from mismatch_lab.checkpoints.config import resolve_model_path

    sharp = edited_checkpoint(MINI, healthy(CONTROLS["sharpened"]), tmp_path)
    ids = torch.tensor([[5, 9, 3]])
    plain, doubled = (
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)(ids).logits
        for path in (resolve_model_path(MINI), sharp)
    )
    assert torch.allclose(doubled, 2 * plain, rtol=1e-5, atol=1e-4)


def test_shifted_positions_change_nothing() -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from mismatch_lab.checkpoints.config import resolve_model_path
    from mismatch_lab.scorecard.healthy import shift_positions

    model = AutoModelForCausalLM.from_pretrained(resolve_model_path(MINI), dtype=torch.float32)
    ids = torch.arange(3, 60)[None]
    plain = model(ids).logits
    seen: list[int] = []
    shift_positions(model)
    rotary = model.model.rotary_emb
    rotary.register_forward_pre_hook(
        lambda _m, args, kwargs: seen.append(int((kwargs.get("position_ids", args[-1])).min())),
        with_kwargs=True,
    )
    shifted = model(ids).logits
    assert seen == [37]
    assert torch.allclose(plain, shifted, atol=2e-4)
    assert not torch.equal(plain, shifted)  # it did something, of the size of rounding
