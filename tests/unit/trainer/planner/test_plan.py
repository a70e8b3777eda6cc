"""The plan's arithmetic, its command, and what recipes say of it."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mismatch_lab.cli import app
from mismatch_lab.errors import InputError
from mismatch_lab.trainer.config import read_config
from mismatch_lab.trainer.planner.activations import Pass, expert_ways
from mismatch_lab.trainer.planner.plan import (
    Machine,
    MemoryPlan,
    cache_bytes,
    kv_bytes_per_token,
    make_plan,
)
from mismatch_lab.trainer.planner.shapes import read_shape
from mismatch_lab.trainer.planner.show import summary

EXAMPLES = Path(__file__).parents[4] / "examples"
RECIPES = sorted(EXAMPLES.glob("gpt_oss_*.toml"))
TWENTY = str(EXAMPLES / "gpt_oss_20b")


def planned(ranks: int, **over: object) -> MemoryPlan:
    given = {"model": TWENTY, "dtype": "bfloat16", "optim.micro_batch": 1, **over}
    return make_plan(read_config(None, given), Machine(ranks))


def terms(plan: MemoryPlan, name: str) -> dict[str, float]:
    phase = next(phase for phase in plan.phases if phase.name == name)
    return {term.what: term.gib for term in phase.terms}


def test_by_hand() -> None:
    # 20,914,757,184 numbers over 8 ranks; 32 experts, and all else but the sinks' 64, divide by 8.
    step = terms(planned(8), "optimizer")
    assert step["weights, float32"] == pytest.approx(20_914_757_184 * 4 / 8 / 2**30, rel=1e-4)
    assert step["AdamW's two states"] == pytest.approx(2 * step["weights, float32"])
    # Keys and values of the 20b: 2 · 2 bytes · 512 · 24 layers; half of the layers hold 128 tokens.
    shape = read_shape(TWENTY)
    assert kv_bytes_per_token(shape, 2) == 49_152
    assert cache_bytes(shape, 2, rows=3, row_tokens=1000) == 3 * 2048 * 12 * (1000 + 128)


def test_what_the_fixes_and_checkpoints_save() -> None:
    kept = "activations kept"
    over = {"rollout.context_length": 4096}
    plain = terms(planned(8, **over), "head")[kept]
    fixed = terms(planned(8, **over, fixes=("attention-sinks", "grouped-experts")), "head")[kept]
    again = terms(planned(8, **over, **{"optim.checkpoint_activations": True}), "head")[kept]
    # Scores alone: 2 bytes · 64 heads · 4096 · 4097 tokens · 24 layers = 48 GiB.
    assert plain - fixed > 48
    assert again < 0.02 * plain


def test_a_shared_device_needs_both() -> None:
    apart = planned(7, **{"rollout.devices": ("7",)})
    assert not apart.shared
    assert apart.device_gib == max(apart.peak.total_gib, apart.engine.total_gib)
    both = planned(8)
    assert both.device_gib == both.peak.total_gib + both.engine.total_gib
    assert planned(8, **{"rollout.devices": ("7",)}).shared


def test_every_way_to_run_the_experts() -> None:
    # 2^20 tokens in one call, by repeat: 32 experts · 2^20 tokens · 2880 hidden · 2 bytes are the
    # published 180 GiB; the 5760 numbers of gate and up that come of each are twice that.
    over = {"rollout.context_length": 2**17, "optim.micro_batch": 8, "fixes": ("grouped-experts",)}
    ways = {way.way: way for way in planned(8, **over).experts}
    assert ways["repeat"].largest_gib == pytest.approx(2 * 180)
    assert [name for name, way in ways.items() if way.used] == ["grouped-experts"]
    # 2^20 tokens · 4 slots · 8 bytes of an index · 24 layers
    assert ways["grouped-experts"].kept_gib == pytest.approx(0.75)


def test_no_formula_for_the_experts_of_others() -> None:
    shape = replace(read_shape(TWENTY), family="qwen3_moe")
    assert expert_ways(Pass(shape, 1, 64, 2, "eager", "grouped_mm")) == ()


def test_ranks_that_hosts_do_not_share_evenly() -> None:
    with pytest.raises(InputError, match="3 hosts"):
        Machine(8, 3)


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_recipes_quote_the_planner(file: Path) -> None:
    text = file.read_text()
    asked = re.search(
        r"--config examples/(\S+) \\\n# +--model (\S+) --plan --ranks (\d+)(?: --hosts (\d+))? "
        r"--device-gib (\d+)",
        text,
    )
    assert asked is not None
    assert asked[1] == file.name
    config = read_config(file, {"model": str(EXAMPLES.parent / asked[2])})
    plan = make_plan(config, Machine(int(asked[3]), int(asked[4] or 1)))
    for line in summary(plan, float(asked[5])):
        assert f"\n# {line}\n" in text
    assert "Planned, never run" in text


def test_command() -> None:
    command = ["train", "gsm8k", "--config", str(RECIPES[0]), "--model", TWENTY, "--plan"]
    result = CliRunner().invoke(app, [*command, "--ranks", "8", "--device-gib", "1"])
    assert result.exit_code == 0, result.output
    assert "does not fit 1 GiB" in result.output
    assert "AdamW's two states" in result.output
    assert "grouped-experts (this run)" in result.output


def test_needs_no_torch() -> None:
    code = (
        "import sys; from mismatch_lab.trainer.planner import show; "
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
