"""`diagnose --captures`: two arrays of a run and the checkpoint; transformers on both sides."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from mismatch_lab.captures.store import load_capture, save_capture
from mismatch_lab.cli.app import app

Diagnose = Callable[..., dict[str, Any]]
PLUGINS = Path(__file__).with_name("plugins.py")
HF = ("--engine", "hf", "--trainer", "hf", "--dtype", "bfloat16")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def diagnosed(
    folder: Path, *captures: Path, more: tuple[str, ...] = (), model: str = "mini-gpt-oss"
) -> dict[str, Any]:
    """Findings of what was recorded."""
    named = [word for path in captures for word in ("--captures", str(path))]
    asked = ["--out", str(folder), "--json", "--dtype", "bfloat16", *more]
    done = CliRunner().invoke(app, ["diagnose", model, *named, *asked])
    assert done.exit_code == 0, f"{done.exception!r}\n{done.stderr[-3000:]}"
    assert (folder / "report.html").stat().st_size > 50_000
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def arrays(captures: Path, path: Path, packed: bool = False) -> Path:
    """What a trainer's dump holds: ids, mask, and both sides' log-probs, 0 in prompts; where asked
    for, how the trainer packed.
    """
    infer, train = (load_capture(captures / name)[0] for name in ("decode", "train"))
    sampled = infer.rows.sampled
    held = {"logp_infer": infer.logp, "logp_train": train.logp}
    packs: dict[str, Any] = {}
    if packed:
        assert train.packs is not None
        packs = {"packed_rows": train.packs[:, 0], "packed_places": train.packs[:, 1]}
    np.savez(
        path,
        token_ids=infer.rows.token_ids,
        mask=sampled,
        row_offsets=infer.rows.row_offsets,
        **{name: np.where(sampled, logp, 0) for name, logp in held.items()},
        **packs,
    )
    return path


@pytest.mark.parametrize("plugin", ["drop_sinks", pytest.param(None, marks=pytest.mark.long)])
def test_sinks_dropped_by_a_trainer_show_in_two_arrays(
    diagnose: Diagnose, tmp_path: Path, plugin: str | None
) -> None:
    planted = () if plugin is None else ("--trainer-plugin", f"{PLUGINS}:{plugin}")
    direct = diagnose("mini-gpt-oss", *HF, *planted)
    recorded = direct["out"] / "captures"
    found = diagnosed(tmp_path / "arrays", arrays(recorded, tmp_path / "dump.npz"))
    verdict = found["verdict"]
    assert verdict["status"] == direct["verdict"]["status"]
    edge = found["edges"]["decode_train"]["abs_delta_mean"]
    assert edge["value"] == pytest.approx(
        direct["edges"]["decode_train"]["abs_delta_mean"]["value"], rel=1e-5
    )
    assert "decode_prefill" not in found["edges"]  # nothing was scored anew
    if plugin is None:
        # With AMX transformers' two passes round alike: 1e-5 nats.
        assert verdict["status"] in ("match", "numerics")
        return
    first = verdict["causes"][0]
    assert (first["id"], first["side"]) == ("attention-sinks-dropped", "train")
    assert first["location"] == "model.layers.0.self_attn"
    # A run's own captures say the same, its re-scoring beside them.
    whole = diagnosed(tmp_path / "captures", recorded)
    assert whole["verdict"]["causes"][0]["id"] == "attention-sinks-dropped"
    assert "decode_prefill" in whole["edges"]


PACKED = ("--trainer-arg", "packing=true", "--trainer-arg", "micro_batch=3")


@pytest.mark.long
@pytest.mark.parametrize("plugin", ["leak_over_packs", None])
def test_a_leak_between_packed_sequences_is_named_where_the_record_says_how_they_lay(
    diagnose: Diagnose, llama: Path, tmp_path: Path, plugin: str | None
) -> None:
    planted = () if plugin is None else ("--trainer-plugin", f"{PLUGINS}:{plugin}")
    captures = diagnose(str(llama), *HF, *PACKED, *planted)["out"] / "captures"
    found = {}
    for packed in (True, False):
        dump = arrays(captures, tmp_path / f"{packed}.npz", packed)
        folder, short = tmp_path / f"packed-{packed}", ("--budget", "30")
        found[packed] = diagnosed(folder, dump, more=short, model=str(llama))
    unseen = {of: [n for n in one["notes"] if "packed_rows" in n] for of, one in found.items()}
    assert [len(unseen[packed]) for packed in (True, False)] == [0, 1]
    causes = {
        packed: [(cause["id"], cause["side"]) for cause in one["verdict"]["causes"]]
        for packed, one in found.items()
    }
    statuses = {one["verdict"]["status"] for one in found.values()}
    if plugin is None:
        assert statuses == {"numerics"}
        assert causes == {packed: [("numerics-floor", "neither")] for packed in found}
        return
    assert statuses == {"mismatch"}
    assert causes[True] == [("packing-leak", "train")]
    assert ("packing-leak", "train") not in causes[False]


def choices_alone(captures: Path, folder: Path) -> Path:
    """The sides' captures with who was chosen, as engines return it, and nothing else beside."""
    for name in ("decode", "prefill", "train"):
        capture, manifest = load_capture(captures / name)
        bare = {"router_logits": None, "probe_logp": None, "probe_lse": None}
        save_capture(folder / name, replace(capture, hidden={}, weights={}, **bare), manifest)
    return folder


@pytest.mark.long
@pytest.mark.parametrize("plugin", ["bias_routers", None])
def test_routing_and_hidden_states_of_a_record_say_what_the_run_says(
    diagnose: Diagnose, tmp_path: Path, plugin: str | None
) -> None:
    planted = () if plugin is None else ("--trainer-plugin", f"{PLUGINS}:{plugin}")
    sides = ("--engine", "hf", "--trainer", "fsdp", "--dtype", "bfloat16")
    budget_s = 0 if plugin is None else 30
    direct = diagnose("mini-gpt-oss", *sides, "--depth", "standard", *planted, budget_s=budget_s)
    whole, short = direct["out"] / "captures", ("--budget", "30")
    found = diagnosed(tmp_path / "whole", whole, more=short)
    alone = diagnosed(tmp_path / "alone", choices_alone(whole, tmp_path / "choices"), more=short)
    assert found["routing"] == direct["routing"] == alone["routing"]
    assert found["routing_of_sides"] == direct["routing_of_sides"]
    assert alone["localisation"] is None
    places = [one["localisation"]["first_divergent_module"] for one in (found, direct)]
    statuses = {one["verdict"]["status"] for one in (direct, found, alone)}
    if plugin is None:
        assert statuses == {"numerics"}
        assert places == [None, None]
        return
    assert statuses == {"mismatch"}
    assert places == ["model.layers.0.mlp.experts"] * 2
    named = [one["verdict"]["causes"][0] for one in (direct, found, alone)]
    assert [(c["id"], c["side"], c["location"]) for c in named] == [
        ("router-bias", "train", "model.layers.0.mlp")
    ] * 3
    assert [c["confidence"] for c in named] == [0.9, 0.9, 0.6]


def test_an_engine_scores_a_record_again(diagnose: Diagnose, tmp_path: Path) -> None:
    """What the engine's user recorded is of temperature 0.7, raw: not what it sampled from. vLLM,
    asked again at that temperature, says what it should have been, and that the weights are right.
    """
    raw = ("--engine-arg", "logprobs_mode=raw_logprobs", "--temperature", "0.7")
    trainer = ("--trainer", "hf", "--dtype", "bfloat16")
    direct = diagnose("mini-gpt-oss", "--engine", "vllm", *trainer, *raw)
    two = tmp_path / "two"
    for name in ("decode", "train"):
        shutil.copytree(direct["out"] / "captures" / name, two / name)
    found = diagnosed(tmp_path / "again", two, more=("--rescore", "vllm", "--sample", "16"))
    first = found["verdict"]["causes"][0]
    assert (first["id"], first["side"]) == ("raw-logprobs-temperature", "infer")
    edges = {name: edge["abs_delta_mean"]["value"] for name, edge in found["edges"].items()}
    assert edges["decode_prefill"] > 5 * edges["prefill_train"]  # 0.030 and 0.0023
    again = found["noise_floor"]["infer_ratio"]["value"]
    assert 0.3 < again < 2.5  # the re-scoring is as near to the reference as bfloat16 is


VLLM = ("--engine", "vllm", "--trainer", "hf", "--dtype", "bfloat16")


@pytest.mark.vllm
@pytest.mark.parametrize(
    ("mode", "sampled", "cause", "alone"),
    [
        pytest.param(
            *("raw_logprobs", ("--temperature", "0.5"), "raw-logprobs-temperature", set()),
            marks=pytest.mark.long,
        ),
        (
            "processed_logprobs",
            ("--top-p", "0.8"),
            "sampler-truncation",
            {"sampler-truncation", "partial-normaliser"},
        ),
    ],
)
def test_what_vllm_reports_is_named_with_the_checkpoint_and_possible_without(
    diagnose: Diagnose,
    tmp_path: Path,
    mode: str,
    sampled: tuple[str, ...],
    cause: str,
    alone: set[str],
) -> None:
    """Real vLLM, whose log-probs are not those of the trainer; as arrays they say nothing of it."""
    direct = diagnose("mini-gpt-oss", *VLLM, "--engine-arg", f"logprobs_mode={mode}", *sampled)
    dump = arrays(direct["out"] / "captures", tmp_path / "dump.npz")
    found = diagnosed(tmp_path / "recorded", dump, more=sampled)
    first = found["verdict"]["causes"][0]
    assert (first["id"], first["side"]) == (cause, "infer")
    assert first["confidence"] > 0.9
    causes = compared(dump)["verdict"]["causes"]
    assert {c["id"] for c in causes} == alone
    assert all(c["confidence"] < 0.5 for c in causes)


def compared(dump: Path) -> dict[str, Any]:
    """Findings of two arrays alone."""
    done = CliRunner().invoke(app, ["compare", str(dump), "--json"])
    assert done.exit_code == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.vllm
def test_rows_that_a_trainer_took_from_vllm_are_left_out_of_the_diagnosis(
    diagnose: Diagnose, tmp_path: Path
) -> None:
    direct = diagnose("mini-gpt-oss", *VLLM)
    held = dict(np.load(arrays(direct["out"] / "captures", tmp_path / "dump.npz")))
    row = np.repeat(np.arange(len(held["row_offsets"]) - 1), np.diff(held["row_offsets"]))
    held["logp_train"] = np.where(row % 4 == 0, held["logp_infer"], held["logp_train"])
    np.savez(tmp_path / "copied.npz", **held)
    found = diagnosed(tmp_path / "recorded", tmp_path / "copied.npz")
    assert found["verdict"]["status"] == "mismatch"
    assert [c["id"] for c in found["verdict"]["causes"]] == ["copied-logprobs"]
    assert found["record"]["copied_rows"] == 8
    assert found["record"]["compared_rows"] == 24
    edge = found["edges"]["decode_train"]["abs_delta_mean"]
    assert edge["n"] == int(held["mask"][row % 4 != 0].sum())
