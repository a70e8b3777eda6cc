"""Tasks are recognised by all that their captures depend on, and by nothing else."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mismatch_lab.captures.capture import Capture, Rows
from mismatch_lab.captures.store import load_capture, save_capture
from mismatch_lab.engines.jobs import GenerateJob, ScoreJob, Stage, WorkerTask
from mismatch_lab.executors import cache as cached
from mismatch_lab.executors.sources import foreign_imports, sources_digest
from mismatch_lab.schema import Manifest, Prompt, Sampling, SideSpec
from mismatch_lab.schema.events import Captured, Event


def save(folder: Path, logp: float = -1.0) -> None:
    rows = Rows.build([[1, 2, 3]], [1], [[False, True, True]])
    values = np.array([np.nan, logp, -2.0], np.float32)
    manifest = Manifest.model_validate(
        {
            "id": folder.name, "side": "infer", "engine": "fake", "engine_version": "", "model": "",
            "dtype": "float32", "sampling": None, "logprob_space": "raw", "patched": [],
            "host": "", "packages": {}, "rows": 1, "tokens": 3, "wall_s": 0.25, "arrays_sha256": "",
        }
    )  # fmt: skip
    save_capture(folder, Capture(rows, values), manifest)


def task(captures: Path, **more: Any) -> WorkerTask:
    """Samples `decode`, or scores it as `train` where a side is given that trains."""
    side = more.pop("side", "infer")
    fields = {"side": side, "engine": "fake", "model": "fake", "dtype": "float32"} | more
    job = (
        GenerateJob(id="decode", prompts=[Prompt(id="a", text="Hi")], sampling=Sampling())
        if side == "infer"
        else ScoreJob(id="train", source="decode")
    )
    spec = SideSpec.model_validate(fields)
    return WorkerTask(captures_dir=str(captures), stages=[Stage(spec=spec, jobs=[job])])


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Tasks that were run, not found: a run writes the capture of its only job."""
    ran: list[str] = []

    def run_task(given: WorkerTask, name: str, *_: object) -> None:
        ran.append(name)
        save(Path(given.captures_dir) / given.stages[0].jobs[0].id)

    monkeypatch.setattr(cached, "run_task", run_task)
    return ran


def nothing(_event: Event) -> None: ...


def test_the_second_time_captures_are_copied_and_the_events_are_the_same(
    tmp_path: Path, runs: list[str]
) -> None:
    cache, events = tmp_path / "cache", []
    first = cached.run_cached(task(tmp_path / "a"), "engine", tmp_path, nothing, cache)
    again = cached.run_cached(task(tmp_path / "b"), "engine", tmp_path, events.append, cache)
    assert runs == ["engine"]
    assert again == first  # what it takes to run it, not to copy it
    assert events == [Captured("decode", "infer", 0.25, cached=True)]
    assert load_capture(tmp_path / "b" / "decode")[0].logp[1] == -1.0
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == ["decode"]


def test_what_is_done_to_a_copy_does_not_reach_the_cache(tmp_path: Path, runs: list[str]) -> None:
    cache = tmp_path / "cache"
    for name in ("a", "b"):
        cached.run_cached(task(tmp_path / name), "engine", tmp_path, nothing, cache)
    for file in (tmp_path / "b" / "decode").iterdir():
        file.write_bytes(b"spoilt")
    cached.run_cached(task(tmp_path / "c"), "engine", tmp_path, nothing, cache)
    assert load_capture(tmp_path / "c" / "decode")[0].logp[1] == -1.0
    assert runs == ["engine"]


def test_without_a_cache_everything_is_run(tmp_path: Path, runs: list[str]) -> None:
    for name in ("a", "b"):
        cached.run_cached(task(tmp_path / name), "engine", tmp_path, nothing, None)
    assert runs == ["engine", "engine"]


def test_an_entry_without_its_last_file_is_no_entry(tmp_path: Path, runs: list[str]) -> None:
    cache = tmp_path / "cache"
    cached.run_cached(task(tmp_path / "a"), "engine", tmp_path, nothing, cache)
    (entry,) = cache.iterdir()
    (entry / cached.DONE).unlink()
    cached.run_cached(task(tmp_path / "b"), "engine", tmp_path, nothing, cache)
    assert runs == ["engine", "engine"]


def test_a_failed_task_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cached, "run_task", fail)
    with pytest.raises(KeyboardInterrupt):
        cached.run_cached(task(tmp_path / "a"), "engine", tmp_path, nothing, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def changed(captures: Path, **more: Any) -> tuple[str | None, str | None]:
    """Keys before and after a change to the side."""
    return cached.task_key(task(captures)), cached.task_key(task(captures, **more))


@pytest.mark.parametrize("more", [{"dtype": "bfloat16"}, {"args": {"seed": 1}}, {"model": "other"}])
def test_another_side_is_another_task(tmp_path: Path, more: dict[str, Any]) -> None:
    before, after = changed(tmp_path, **more)
    assert before is not None
    assert after not in (None, before)


def test_where_captures_are_written_does_not_matter(tmp_path: Path) -> None:
    assert cached.task_key(task(tmp_path / "a")) == cached.task_key(task(tmp_path / "b"))


def test_scores_depend_on_the_tokens_scored(tmp_path: Path) -> None:
    for name, logp in (("a", -1.0), ("b", -1.0), ("c", -1.5)):
        save(tmp_path / name / "decode", logp)
    keys = [cached.task_key(task(tmp_path / name, side="train")) for name in "abc"]
    assert keys[0] == keys[1] != keys[2]


def edit_file(path: Path) -> None:
    path.write_text(path.read_text() + "\n# more")


def test_a_checkpoint_is_known_by_its_files(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    before = cached.task_key(task(tmp_path, model=str(model)))
    (model / "config.json").write_text("{ }")
    assert None is not before != cached.task_key(task(tmp_path, model=str(model)))


@pytest.mark.parametrize("edit", [edit_file, lambda path: os.utime(path, ns=(1, 1))])
def test_so_is_a_folder_that_a_plugin_names(tmp_path: Path, edit: Callable[[Path], None]) -> None:
    (tmp_path / "old").mkdir()
    weights = tmp_path / "old" / "w.txt"
    weights.write_text("1")
    plugin = tmp_path / "patch.py"
    plugin.write_text(f"def patch(model):\n    open('{tmp_path}/old')\n")
    before = cached.task_key(task(tmp_path, plugin=f"{plugin}:patch"))
    edit(weights)
    assert None is not before != cached.task_key(task(tmp_path, plugin=f"{plugin}:patch"))


def test_a_plugin_is_known_by_its_text_and_by_what_it_imports_of_this_package(
    tmp_path: Path,
) -> None:
    plugin = tmp_path / "patch.py"
    plugin.write_text("def patch(model): ...\n")
    before = cached.task_key(task(tmp_path, plugin=f"{plugin}:patch"))
    plugin.write_text("from mismatch_lab.captures.align import align\ndef patch(model): ...\n")
    assert None is not before != cached.task_key(task(tmp_path, plugin=f"{plugin}:patch"))
    digest = sources_digest(plugin)
    # Without align's own imports the same text has another digest: they are followed.
    plugin.write_text(plugin.read_text().replace("captures.align", "captures.nowhere"))
    assert sources_digest(plugin) != digest


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("import helpers\ndef patch(model): ...\n", {}),  # beside the file, or anywhere
        ("from . import helpers\ndef patch(model): ...\n", {}),
        ("def patch(model): ...\n", {"python": "/usr/bin/python3"}),
        ("def patch(model): ...\n", {"engine": "hf", "model": "somebody/hub-name"}),
    ],
)
def test_in_doubt_nothing_is_cached(tmp_path: Path, text: str, fields: dict[str, str]) -> None:
    plugin = tmp_path / "patch.py"
    plugin.write_text(text)
    assert cached.task_key(task(tmp_path, plugin=f"{plugin}:patch", **fields)) is None


def test_imports_are_found_in_functions_too(tmp_path: Path) -> None:
    plugin = tmp_path / "patch.py"
    plugin.write_text("import os\ndef patch(m):\n    import torch.nn\n    import mine.deep\n")
    assert foreign_imports(plugin) == {"torch", "mine"}


def test_entries_unused_for_longest_go_first(tmp_path: Path) -> None:
    for age, name in enumerate(("old", "used", "new")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "arrays").write_bytes(bytes(100))
        (tmp_path / name / cached.DONE).write_text("{}")
        os.utime(tmp_path / name / cached.DONE, (age, age))
    os.utime(tmp_path / "used" / cached.DONE, (9, 9))
    cached._prune(tmp_path, limit_bytes=250)  # 102 bytes each: two fit
    assert {p.name for p in tmp_path.iterdir()} == {"used", "new"}


def test_what_another_program_still_writes_is_not_pruned(tmp_path: Path) -> None:
    partial = tmp_path / ".x.partial"
    partial.mkdir()
    (partial / cached.DONE).write_text("{}")
    cached._prune(tmp_path, limit_bytes=0)
    assert (partial / cached.DONE).is_file()


@pytest.mark.parametrize("stored_again", [False, True])
def test_what_is_pruned_while_it_is_copied_is_run_again(
    tmp_path: Path, runs: list[str], monkeypatch: pytest.MonkeyPatch, stored_again: bool
) -> None:
    cache = tmp_path / "cache"
    cached.run_cached(task(tmp_path / "a"), "engine", tmp_path, nothing, cache)
    (entry,) = cache.iterdir()
    copytree = shutil.copytree

    def copied_late(source: Path, into: Path) -> None:
        """Another program has begun to prune: the mark is gone, and some of the files."""
        if source.parent == entry:
            mark = (entry / cached.DONE).read_text()
            (entry / cached.DONE).unlink()
            (source / "arrays.safetensors").unlink()
            if stored_again:
                (entry / cached.DONE).write_text(mark)
        copytree(source, into)

    monkeypatch.setattr(shutil, "copytree", copied_late)
    cached.run_cached(task(tmp_path / "b"), "engine", tmp_path, nothing, cache)
    assert len(runs) == 2
    assert load_capture(tmp_path / "b" / "decode")[0].logp[1] == -1.0
    assert [p.name for p in (tmp_path / "b").iterdir()] == ["decode"]


def test_programs_that_share_a_cache_store_find_and_prune_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With room for nothing, every entry vanishes while the others look at it."""
    cache = tmp_path / "cache"
    prune = cached._prune
    monkeypatch.setattr(cached, "_prune", lambda folder, _limit: prune(folder, 0))
    monkeypatch.setattr(cached, "task_key", lambda given: Path(given.captures_dir).name[0])
    monkeypatch.setattr(
        cached, "run_task", lambda given, *_: save(Path(given.captures_dir) / "decode")
    )

    def program(number: int) -> None:
        for turn in range(12):  # keys "0" and "1", each wanted by three programs
            captures = tmp_path / f"{(number + turn) % 2}-{number}-{turn}"
            cached.run_cached(task(captures), "engine", tmp_path, nothing, cache)
            assert load_capture(captures / "decode")[0].logp[1] == -1.0

    with ThreadPoolExecutor(6) as programs:
        for ended in [programs.submit(program, number) for number in range(6)]:
            ended.result()
    assert not [entry for entry in cache.iterdir() if (entry / cached.DONE).exists()]
