"""Rules files: what is accepted, and that everything else is an error which says where."""

from __future__ import annotations

from pathlib import Path

import pytest

from mismatch_lab.errors import InputError
from mismatch_lab.gate.rules import Rules, default_rules, load_rules
from mismatch_lab.probes.suites import probe_names

STATUS = '[[status]]\nname = "s"\nreason = "r"\nallowed = ["match"]\n'


def limit(name: str, more: str, edge: str = "decode_train", measure: str = "ess") -> str:
    head = f'[[limit]]\nname = "{name}"\nreason = "r"\n'
    return f'{head}edge = "{edge}"\nmeasure = "{measure}"\n{more}\n'


def load(tmp_path: Path, text: str) -> Rules:
    path = tmp_path / "rules.toml"
    path.write_text(text, encoding="utf-8")
    return load_rules(path)


def test_the_default_set_judges_every_probe_and_gives_reasons() -> None:
    rules = default_rules()
    for probe in probe_names():
        assert {rule.name for rule in rules.of(probe)} >= {"verdict", "floor", "floor-typical"}
    assert all(len(rule.reason) > 40 for rule in rules.all())


def test_a_rule_is_for_the_probes_that_it_names(tmp_path: Path) -> None:
    rules = load(tmp_path, STATUS + limit("long", 'below = 1\nprobes = ["long-context"]'))
    assert [rule.name for rule in rules.of("long-context")] == ["s", "long"]
    assert [rule.name for rule in rules.of("quick")] == ["s"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "there is no rule"),
        ("min_tokens = 0\n" + STATUS, "min_tokens"),
        ("schema_version = 2\n" + STATUS, "schema_version"),
        ("[[statuses]]\nname = 's'\n", "statuses"),
        (STATUS.replace("allowed", "alowed"), "alowed"),
        (STATUS.replace('"match"', '"underpowered"'), "allowed"),
        (STATUS.replace('reason = "r"\n', ""), "reason"),
        ("not toml", "not TOML"),
        (limit("a", "below = 1", measure="abs_delta"), "has no measure 'abs_delta'"),
        (limit("a", "below = 1", edge="decode"), "unknown edge 'decode'"),
        (limit("a", ""), "give below, above or both"),
        (limit("a", "below = 1\nabove = 2"), "nothing lies above 2 and below 1"),
        (STATUS + STATUS, "two rules are called 's'"),
        (STATUS + STATUS.replace('"s"', '"t"').replace("match", "numerics"), "contradict"),
        (limit("a", "below = 1") + limit("b", "below = 2"), "contradict, or one says nothing"),
        (limit("a", "below = 1") + limit("b", "above = 2"), "contradict: nothing lies above 2"),
        (
            '[[causes]]\nname = "c"\nreason = "r"\nforbidden = ["sinks"]\n',
            "unknown cause 'sinks'",
        ),
        (
            '[[baseline]]\nname = "b"\nreason = "r"\nedge = "decode_train"\nmeasure = "ess"\n'
            "increase = 1\n",
            "of a baseline there are abs_delta_mean",
        ),
        ('[[sequences]]\nname = "q"\nreason = "r"\nedge = "decode_train"\n', "below_nats"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InputError, match=r"Rules file .*rules\.toml") as found:
        load(tmp_path, text)
    assert says in found.value.problem


def test_limits_of_other_probes_do_not_contradict(tmp_path: Path) -> None:
    text = limit("a", 'below = 1\nprobes = ["quick"]') + limit("b", 'above = 2\nprobes = ["moe"]')
    assert len(load(tmp_path, text).limit) == 2


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    assert load(tmp_path, "\ufeff" + STATUS).status


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        load_rules(tmp_path / "none.toml")
