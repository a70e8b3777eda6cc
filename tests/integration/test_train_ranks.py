"""FSDP2 over two ranks (gloo) trains as one process does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from mismatch_lab.trainer.metrics import read_metrics

pytestmark = pytest.mark.slow

TRAIN = Path(__file__).with_name("train_on_ranks.py")
SCORE = Path(__file__).with_name("score_on_ranks.py")
TWO_RANKS = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def run(launcher: list[str], *script: Path) -> None:
    done = subprocess.run(
        [sys.executable, *launcher, *map(str, script)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_two_ranks_train_as_one(tmp_path: Path) -> None:
    for launcher, name in (([], "one"), (TWO_RANKS, "two")):
        (tmp_path / name).mkdir()
        run(launcher, TRAIN, tmp_path / name)
    one, two = read_metrics(tmp_path / "one"), read_metrics(tmp_path / "two")
    assert len(one) == len(two) == 4
    for a, b in zip(one[:3], two[:3], strict=True):
        # Sums are taken in another order, so nothing is equal to the bit.
        for name in ("reward", "tokens", "loss", "grad_norm", "entropy", "kl_ref"):
            assert b[name] == pytest.approx(a[name], rel=1e-3, abs=1e-5), (a["step"], name)
        # The two passes are compared on every rank's rows, and the KL pulls at all of them.
        assert b["train_train/n"] == a["train_train/n"] == a["tokens_sampled"]
        assert (b["updates_skipped"], b["tokens_dropped"]) == (0, 0)
    assert one[2]["grad_norm"] > 0.01
    assert (tmp_path / "two" / "checkpoints" / "step-000003" / "state.json").is_file()


def test_ranks_that_get_their_shards_from_the_first_hold_what_it_read(tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "tied")
    for launcher, name in (([], "one"), (TWO_RANKS, "two")):
        run(launcher, SCORE, tmp_path / "tied", tmp_path / name)
    one, two = (torch.load(tmp_path / name, weights_only=True) for name in ("one", "two"))
    assert "sinks-dropped" in one
    assert one.keys() == two.keys()
    for name, logp in one.items():
        torch.testing.assert_close(two[name], logp, rtol=1e-4, atol=1e-4, msg=name)
    assert (one["sinks-dropped"] - one["healthy"]).abs().max() > 0.01
