"""`ingest` as somebody types it: what is printed, what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

import dump_writers as w

if TYPE_CHECKING:
    from calls import Call


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    """Rows enough for a verdict, half a nat apart."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(8):
        ids = rng.integers(0, 100, 50).tolist()
        sampled = [at >= 5 for at in range(50)]
        infer = np.where(sampled, -rng.exponential(1, 50), np.nan).astype(np.float32)
        rows.append(w.Written(ids, sampled, infer, infer - np.float32(0.5)))
    return w.nemo_rl(tmp_path / "logs", rows)


def test_what_is_written_is_said(lab: Call, dump: Path) -> None:
    done = lab("ingest", "nemo-rl", dump, "--out", "record", *w.PLAIN, "--sample", 6)
    assert done.code == 0
    assert "step 7: 6 of 8 rows, 270 sampled of 300 tokens" in done.out
    assert "compared are generated tokens; the dump has generated (token_loss_mask)" in done.out
    assert "not in the dump: how the engine sampled" in done.out
    assert "next:   mismatch-lab diagnose CHECKPOINT --captures record" in done.out
    found = json.loads(lab("compare", "record/decode", "record/train", "--json").out)
    assert found["edges"]["decode_train"]["mean_delta"]["value"] == pytest.approx(-0.5)
    assert found["verdict"]["status"] == "mismatch"


def test_for_machines(lab: Call, dump: Path) -> None:
    done = lab("ingest", "nemo-rl", dump, "--out", "record", *w.PLAIN, "--json")
    assert json.loads(done.out)["steps"][0]["sampled"] == 360


def rewritten(dump: Path, **changed: object) -> None:
    """The dump with other values of the generated tokens, by the name of the array."""
    path = dump / "train_data_step7.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        for name, value in changed.items():
            line[name][0][5:15] = [value] * 10
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    w.old(path)


@pytest.mark.parametrize(
    ("changed", "status", "cause"),
    [
        ({"generation_logprobs": None}, "mismatch", "missing-logprobs"),
        ({"generation_logprobs": float("nan")}, "mismatch", "missing-logprobs"),
        ({"prev_logprobs": float("-inf")}, "mismatch", "impossible-token"),
        ({"generation_logprobs": -9999.0}, "mismatch", "sentinel-values"),
        ({"generation_logprobs": 0.0}, "mismatch", "missing-logprobs"),
    ],
)
def test_what_is_no_log_prob_is_never_a_match(
    lab: Call, tmp_path: Path, changed: dict[str, object], status: str, cause: str
) -> None:
    rng = np.random.default_rng(1)
    sampled = [at >= 5 for at in range(50)]
    rows = []
    for _ in range(8):
        infer = np.where(sampled, -0.1 - rng.exponential(1, 50), np.nan).astype(np.float32)
        train = infer + rng.normal(0, 1e-6, 50).astype(np.float32)  # a match, but for these
        rows.append(w.Written(rng.integers(0, 100, 50).tolist(), sampled, infer, train))
    dump = w.nemo_rl(tmp_path / "logs", rows)
    lab("ingest", "nemo-rl", dump, "--out", "healthy", *w.PLAIN)
    found = json.loads(lab("compare", "healthy/decode", "healthy/train", "--json").out)
    assert found["verdict"]["status"] == "match"
    rewritten(dump, **changed)
    lab("ingest", "nemo-rl", dump, "--out", "record", *w.PLAIN)
    found = json.loads(lab("compare", "record/decode", "record/train", "--json").out)
    assert found["verdict"]["status"] == status
    assert cause in [one["id"] for one in found["verdict"]["causes"]]


def test_a_copy_is_said_to_be_one_and_measures_nothing(
    lab: Call, tmp_path: Path, dump: Path
) -> None:
    path = dump / "train_data_step7.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line["prev_logprobs"] = line["generation_logprobs"]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    w.old(path)
    assert "a copy" in lab("ingest", "nemo-rl", dump, "--out", "record", *w.PLAIN).out
    found = json.loads(lab("compare", "record/decode", "record/train", "--json").out)
    assert found["verdict"]["status"] == "error"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nemorl", "logs", "--out", "x"], ["'nemorl'", "Did you mean nemo-rl?", "prime-rl"]),
        (["nemo-rl", "logs", "--out", "x"], ["--temperature, --top-p, --top-k, --min-p"]),
        (["nemo-rl", "nowhere", "--out", "x", *w.PLAIN], ["nowhere does not exist"]),
        (["slime", "logs", "--out", "x", *w.PLAIN], ["logs holds no train_data/*.pt"]),
        (["nemo-rl", "logs", "--out", "logs", *w.PLAIN], ["Choose another --out"]),
        (["nemo-rl", "logs", "--out", "x", *w.PLAIN, "--steps", "a"], ["--steps 'a'", "3:7"]),
        (["nemo-rl", "logs", "--out", "x", *w.PLAIN, "--maks", "loss"], ["--maks"]),
    ],
)
def test_what_is_refused(lab: Call, dump: Path, words: list[str], said: list[str]) -> None:
    done = lab("ingest", *words)
    assert done.code == 2
    assert "Traceback" not in done.err
    for text in said:
        assert text in done.err
    assert not Path("x").exists()


def test_formats_are_listed_and_explained(lab: Call) -> None:
    listed = lab("list", "formats").out
    for name in w.WRITERS:
        assert name in listed
        assert "cannot know: " in lab("explain", name).out
    assert "--dump-details" in lab("explain", "slime").out


def test_nothing_heavy_is_imported_for_lines_of_json(dump: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from mismatch_lab.cli import main\n"
        f"sys.argv = ['x', 'ingest', 'nemo-rl', {str(dump)!r}, '--out', {str(tmp_path / 'o')!r}, "
        f"*{w.PLAIN!r}]\n"
        "try: main()\nexcept SystemExit as e: assert not e.code\n"
        "print([m for m in ('torch', 'transformers', 'pandas', 'vllm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


KILLED = """
import os, signal, sys, time
from mismatch_lab.cli import main
from mismatch_lab.ingest import write
save = write.save_capture

def killed_halfway(folder, capture, manifest):
    save(folder, capture, manifest)
    print(*os.listdir(folder.parent), flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(30)

write.save_capture = killed_halfway
main()
"""


def test_a_killed_ingest_leaves_nothing(tmp_path: Path, dump: Path) -> None:
    words = ["ingest", "nemo-rl", str(dump), "--out", str(tmp_path / "out"), *w.PLAIN]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *words], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["decode"]  # one capture was there, whole
    assert done.returncode == 130, done.stderr
    assert "nothing half-written" in done.stderr
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == []
