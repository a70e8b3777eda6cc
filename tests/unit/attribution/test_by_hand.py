"""What is left to the user of a server: settings that bear on what was seen, and outcomes."""

from __future__ import annotations

import numpy as np
import pytest
from builders import answered, run_of, side

from mismatch_lab.attribution.by_hand import SETTINGS, to_try
from mismatch_lab.attribution.experiments import choices
from mismatch_lab.schema import Cause, Manifest, RunSpec, Sampling

COMMAND = ["mismatch-lab", "diagnose", "m", "--engine-url", "http://h:1", "--out", "x"]


def server_run(dtype: str = "bfloat16") -> RunSpec:
    """A run against one server, at temperature 0.7."""
    run = run_of()
    infer = side("infer").model_copy(
        update={"engine": "http", "urls": ("http://h:1",), "dtype": dtype}
    )
    sampling = Sampling(temperature=0.7)
    return run.model_copy(
        update={
            "infer": infer,
            "probe": run.probe.model_copy(update={"sampling": sampling}),
            "provenance": run.provenance.model_copy(update={"command": COMMAND}),
        }
    )


def manifest(**options: object) -> Manifest:
    """What the server said."""
    return Manifest.model_validate(
        {
            "id": "decode", "side": "infer", "engine": "http", "engine_version": "vllm 1",
            "model": "m", "dtype": "bfloat16", "sampling": None, "logprob_space": "raw",
            "patched": [], "host": "", "packages": {}, "rows": 1, "tokens": 2, "wall_s": 0.0,
            "arrays_sha256": "", "options": {"server": "vllm", **options},
        }
    )  # fmt: skip


def captures(decode: float, prefill: float) -> dict[str, object]:
    """Two tokens of -1 by the reference; the engine is so much off."""
    return {
        "ref": answered([-1.0, -1.0]),
        "prefill": answered([-1.0 - prefill] * 2),
        "decode": answered([-1.0 - prefill - decode] * 2),
    }


def cause(name: str, who: str = "infer") -> Cause:
    return Cause.model_validate(
        {"id": name, "family": "", "side": who, "confidence": 0.9, "location": None, "evidence": []}
    )


def tried(causes: list[Cause], decode: float = 0.3, prefill: float = 0.0, **said: object) -> dict:
    found = to_try(server_run(), captures(decode, prefill), 1e-3, causes, manifest(**said))
    return {one.server_with: one for one in found}


def test_what_takes_the_named_cause_away_is_listed_with_what_follows() -> None:
    found = tried([cause("raw-logprobs-temperature")])
    assert list(found) == ["--logprobs-mode processed_logprobs"]
    (one,) = found.values()
    assert one.if_gone == "it is raw-logprobs-temperature"
    assert "does not bring it about" in one.if_it_stays  # the experiment may clear it, not surely
    # The command of the run, without the folder that is taken.
    assert one.command == "mismatch-lab diagnose m --engine-url http://h:1 --depth quick"


def test_a_server_of_sglang_has_its_own_flags() -> None:
    found = tried([cause("stale-prefix-cache")], server="sglang")
    assert "--disable-radix-cache" in found


def test_without_a_cause_everything_that_may_matter_is_listed_and_what_stands_so_is_not() -> None:
    every = tried([])
    assert set(every) == {
        setting.vllm for setting in SETTINGS if setting.experiment.id != "quantisation"
    }
    fewer = tried([], enforce_eager=True, logprobs_mode="processed_logprobs")
    assert set(every) - set(fewer) == {"--enforce-eager", "--logprobs-mode processed_logprobs"}
    assert "--quantization" not in " ".join(fewer)  # sampling alone is off: weights are the same
    assert "no --quantization" in tried([], decode=0.0, prefill=0.3)


@pytest.mark.parametrize("causes", [[], [cause("lm-head-precision", "train")]])
def test_nothing_is_listed_where_the_engine_is_sound(causes: list[Cause]) -> None:
    assert tried(causes, decode=0.0, prefill=0.0) == {}


def test_nothing_is_listed_where_the_engine_is_ours() -> None:
    found = to_try(run_of(), captures(0.3, 0.3), 1e-3, [], manifest())
    assert found == []


def test_a_server_is_asked_otherwise_and_never_started_otherwise() -> None:
    experiments = {
        choice.experiment.id for s in ("decode", "infer") for choice in choices(server_run(), s)
    }
    assert experiments == {"temperature-1"}


def test_not_a_number_is_not_wrong() -> None:
    """A re-scoring that could not be had at this temperature."""
    some = captures(0.3, 0.0) | {"prefill": answered([np.nan, np.nan])}
    assert to_try(server_run(), some, 1e-3, [], manifest()) == []
