from pathlib import Path

import build_run
from scenes import Scene, captures

from mismatch_lab.captures.store import save_capture
from mismatch_lab.report.run_files import read_run


def saved(folder: Path, *names: str) -> Path:
    """A run of only these captures: copies of the engine's, whatever their side."""
    build_run.build_error(folder)
    capture = captures(Scene(rows=4, sampled=8, routers=False))["decode"]
    for name in names:
        save_capture(folder / "captures" / name, capture, build_run.manifest(name, capture))
    return folder


def test_sides_go_by_name_then_by_side(tmp_path: Path) -> None:
    run = read_run(saved(tmp_path / "a", "train", "decode_2", "prefill", "decode"))
    assert (run.infer_id, run.train_id) == ("decode", "train")
    assert set(run.manifests) == {"train", "decode_2", "prefill", "decode"}
    assert set(run.captures) == {"decode", "prefill", "train"}  # the repeat is not loaded
    run = read_run(saved(tmp_path / "b", "train", "mine"))
    assert (run.infer_id, run.train_id) == ("mine", "train")
    assert run.pair is not None


def test_two_captures_of_one_side_are_compared_with_each_other(tmp_path: Path) -> None:
    run = read_run(saved(tmp_path / "run", "one", "two"))
    assert (run.infer_id, run.train_id) == ("one", "two")
    assert run.pair is not None


def test_half_written_captures_are_not_seen(tmp_path: Path) -> None:
    folder = saved(tmp_path / "run", "decode")
    (folder / "captures" / "decode").rename(folder / "captures" / ".decode.x.partial")
    run = read_run(folder)
    assert run.manifests == {}
    assert run.problems == ["There is no capture of the engine in this run: no token can be shown."]
