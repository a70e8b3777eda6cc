"""Probes and prompt sets: what ships loads, and what is wrong in a file is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mismatch_lab.errors import InputError
from mismatch_lab.probes.suites import load_probe, load_prompts, probe_names, probe_prompts, shots
from mismatch_lab.resources import probes_dir
from mismatch_lab.schema import Prompt

SHIPPED = ["quick", "long-context", "moe", "multi-turn", "standard", "temperature"]

PROBE = """
name = "mine"
title = "t"
why = "w"
limits_reason = "r"
[prompts]
set = "word-problems.jsonl"
count = 3
"""


def written(folder: Path, text: str, name: str = "mine.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


# ---- What ships --------------------------------------------------------------------------------


def test_the_default_probe_comes_first() -> None:
    assert probe_names() == SHIPPED


@pytest.mark.parametrize("path", sorted(probes_dir().glob("*.toml")), ids=lambda p: p.stem)
def test_every_shipped_probe_loads_with_its_prompts(path: Path) -> None:
    probe = load_probe(path.stem)
    assert probe == load_probe(str(path))
    assert probe.name == path.stem
    assert probe.why.strip()
    # A limit without its reason is a guess: the reason names the limits it speaks of.
    assert f"match {probe.limits.match_abs_delta_nats:g}".replace("0.0001", "1e-4") in (
        probe.limits_reason
    )
    prompts = probe_prompts(probe)
    assert len(prompts) == probe.prompts.count
    assert len({prompt.id for prompt in prompts}) == len(prompts)
    assert all(prompt.origin for prompt in prompts)


@pytest.mark.parametrize(
    "path", sorted((probes_dir() / "prompts").glob("*.jsonl")), ids=lambda p: p.stem
)
def test_every_line_of_a_shipped_prompt_set_loads(path: Path) -> None:
    assert len(load_prompts(path)) == len(path.read_text(encoding="utf-8").splitlines())


def test_only_the_multi_turn_probe_has_follow_ups() -> None:
    turns = {name: {len(p.follow_ups) for p in probe_prompts(load_probe(name))} for name in SHIPPED}
    assert turns.pop("multi-turn") == {2}
    assert set(map(frozenset, turns.values())) == {frozenset({0})}


def test_shots_are_questions_that_the_probe_does_not_ask() -> None:
    probe = load_probe("long-context")
    found = shots(probe)
    assert len(found) == probe.prompts.shots
    asked = {m["content"] for prompt in probe_prompts(probe) for m in prompt.messages or []}
    assert not asked & set(found)


def test_a_probe_file_needs_little(tmp_path: Path) -> None:
    probe = load_probe(str(written(tmp_path, PROBE)))
    assert (probe.name, probe.depth, probe.sampling.temperature) == ("mine", "quick", 1.0)
    assert [p.id for p in probe_prompts(probe)] == ["word-000", "word-001", "word-002"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("colour = 'red'\n", "colour"),
        ("[sampling]\ntop_k = 5\n", "sampling.top_k"),
        ("[sampling]\ntemperature = 0\n", "sampling.temperature"),
        ("[sampling]\nmax_tokens = 'many'\n", "sampling.max_tokens.*many"),
        ("[limits]\nfloor_ratio = 1.0\n", "limits.floor_ratio"),
        ("schema_version = 2\n", "schema_version"),
        ("depth = 'abyss'\n", "depth.*abyss"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, change: str, said: str) -> None:
    table = change.startswith("[")
    path = written(tmp_path, PROBE + change if table else change + PROBE)
    with pytest.raises(InputError, match=rf"mine\.toml: {said}"):
        load_probe(str(path))


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, PROBE.replace('limits_reason = "r"', ""))
    with pytest.raises(InputError, match="limits_reason"):
        load_probe(str(path))


@pytest.mark.parametrize("content", [b"name = ", b"\xff\xfe", b"{}"])
def test_what_is_not_toml_is_said_to_be_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"mine\.toml is not TOML"):
        load_probe(str(path))


def test_an_unknown_probe_lists_the_known() -> None:
    with pytest.raises(InputError) as caught:
        load_probe("quikc")
    assert "'quikc'" in caught.value.problem
    assert all(name in caught.value.hint for name in SHIPPED)


def test_a_prompt_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"text": "Hi"}\n', encoding="utf-8-sig")
    assert [prompt.text for prompt in load_prompts(path)] == ["Hi"]


@pytest.mark.parametrize(
    ("key", "said"), [("prompt", "holds one of"), ("mesages", "mean messages")]
)
def test_a_wrong_key_of_a_prompt_is_told_the_right_ones(
    tmp_path: Path, key: str, said: str
) -> None:
    path = written(tmp_path, f'{{"{key}": "Hi"}}\n', "p.jsonl")
    with pytest.raises(InputError, match=rf"p\.jsonl, line 1: a prompt has no '{key}'") as caught:
        load_prompts(path)
    assert said in caught.value.hint
    assert "messages, text, token_ids" in caught.value.hint


def test_a_probe_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        load_probe(str(tmp_path / "nothing.toml"))


def test_a_prompt_set_that_is_not_there_is_named(tmp_path: Path) -> None:
    probe = load_probe(str(written(tmp_path, PROBE.replace("word-problems", "no-such"))))
    with pytest.raises(InputError, match=r"no-such\.jsonl does not exist"):
        probe_prompts(probe)


def test_more_prompts_than_the_set_holds(tmp_path: Path) -> None:
    probe = load_probe(str(written(tmp_path, PROBE.replace("count = 3", "count = 10000"))))
    with pytest.raises(InputError, match="the probe wants 10000"):
        probe_prompts(probe)


# ---- Prompt files ------------------------------------------------------------------------------


def prompts(folder: Path, *lines: str) -> list[Prompt]:
    return load_prompts(written(folder, "\n".join(lines) + "\n", "p.jsonl"))


def test_each_form_of_a_prompt(tmp_path: Path) -> None:
    said = [{"role": "user", "content": "Hi"}]
    found = prompts(
        tmp_path,
        json.dumps({"id": "a", "messages": said, "follow_ups": ["And?"]}),
        "",
        '{"text": "Once upon"}',
        '{"token_ids": [5, 6]}\r',
    )
    # A line without an id goes by its number; the empty line counts.
    assert [p.id for p in found] == ["a", "line-3", "line-4"]
    assert (found[0].messages, found[0].follow_ups) == (said, ["And?"])
    assert (found[1].text, found[2].token_ids) == ("Once upon", [5, 6])


def test_separators_of_unicode_are_text_and_not_the_end_of_a_line(tmp_path: Path) -> None:
    text = "one\u2028two\x85three\x0cfour"
    line = json.dumps({"text": text}, ensure_ascii=False)
    assert "\u2028" in line
    assert [p.text for p in prompts(tmp_path, line, line)] == [text, text]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"text": ', "not JSON"),
        ("[1, 2]", "not a JSON object"),
        ('{"text": "a", "token_ids": [1]}', "exactly one of messages, text, token_ids"),
        ('{"text": "a", "messages": []}', "exactly one of messages, text, token_ids"),
        ('{"id": "x"}', "exactly one of messages, text, token_ids"),
        ('{"txet": "a"}', "txet"),
        ('{"token_ids": ["one"]}', r"token_ids\.0"),
        ('{"text": 7}', "text"),
        ('{"id": 7, "text": "a"}', "id"),
        ('{"messages": [{"role": "user"}]}', "role and content"),
        ('{"messages": [{"role": "user", "content": "a", "name": "b"}]}', "role and content"),
    ],
)
def test_a_broken_line_is_named_by_its_number(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(InputError, match=rf"p\.jsonl, line 3: .*{said}"):
        prompts(tmp_path, '{"text": "fine"}', "", line, '{"text": "fine"}')


@pytest.mark.parametrize("content", ["", "\n \n\n"])
def test_an_empty_file_holds_no_prompts(tmp_path: Path, content: str) -> None:
    with pytest.raises(InputError, match=r"p\.jsonl holds no prompts"):
        load_prompts(written(tmp_path, content, "p.jsonl"))


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(b'{"text": "\xff"}')
    with pytest.raises(InputError, match="not UTF-8"):
        load_prompts(path)


def test_no_file_and_no_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.jsonl", tmp_path):
        with pytest.raises(InputError, match="does not exist"):
            load_prompts(path)


def test_lines_beyond_the_count_are_not_read(tmp_path: Path) -> None:
    path = written(tmp_path, '{"text": "a"}\n{"text": "b"}\nbroken\n', "p.jsonl")
    assert [p.text for p in load_prompts(path, 2)] == ["a", "b"]
    with pytest.raises(InputError, match="line 3"):
        load_prompts(path, 3)
