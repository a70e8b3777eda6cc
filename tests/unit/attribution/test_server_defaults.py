"""Settings that a server samples with by itself: a verdict and a cause of their own."""

from __future__ import annotations

from mismatch_lab.attribution.server_defaults import causes_of, own_settings, spoiled_by
from mismatch_lab.schema import Manifest


def manifest(**options: object) -> Manifest:
    """What the server said."""
    return Manifest.model_validate(
        {
            "id": "decode", "side": "infer", "engine": "http", "engine_version": "vllm 1",
            "model": "m", "dtype": "bfloat16", "sampling": None, "logprob_space": "raw",
            "patched": [], "host": "", "packages": {}, "rows": 1, "tokens": 2, "wall_s": 0.0,
            "arrays_sha256": "", "options": options,
        }
    )  # fmt: skip


def test_a_server_without_settings_of_its_own_spoils_nothing() -> None:
    found = own_settings(manifest(server="vllm", max_logprobs=20))
    assert found == {}
    assert spoiled_by(found) == {}
    assert causes_of(found, set()) == []


def test_each_setting_is_of_a_cause_and_causes_are_named_once() -> None:
    shares = {"repetition_penalty": 0.4, "presence_penalty": 0.1, "top_k": 0.2}
    found = own_settings(manifest(**{f"inherits.{name}": v for name, v in shares.items()}))
    assert found == shares
    spoiled = spoiled_by(found)
    assert spoiled["status"] == "mismatch"
    assert "a repetition penalty, a presence penalty, top-k" in spoiled["headline"]
    causes = {cause.id: cause for cause in causes_of(found, set())}
    assert set(causes) == {"sampling-penalties", "sampler-truncation"}
    penalties = causes["sampling-penalties"]
    assert [o.value for o in penalties.evidence] == [0.4, 0.1]
    assert (penalties.side, penalties.confirmed_by[0].before) == ("infer", 0.4)
    assert [c.id for c in causes_of(found, {"sampling-penalties"})] == ["sampler-truncation"]
