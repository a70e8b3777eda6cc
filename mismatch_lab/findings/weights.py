"""Which weight tensors differ between the sides, from fingerprints that survive fusing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mismatch_lab.captures.fingerprint import Fingerprint, joined, total
from mismatch_lab.captures.names import canonical_name

Fingerprints = Mapping[str, Fingerprint]
Place = tuple[int, int]
"""(number of the expert, number of the part) within what some side holds as one tensor."""
Parts = dict[Place, Fingerprint]


@dataclass(frozen=True)
class Fusing:
    """Tensors that some side holds as one, their rows in the order of `parts`."""

    pattern: re.Pattern[str]
    """Of the end of a name; `expert` is a number, `part` one of `parts`."""
    parts: tuple[str, ...]
    fused: str


_FUSINGS = (
    Fusing(re.compile(r"\.(?P<part>[qkv])_proj\.(weight|bias)$"), ("q", "k", "v"), r".qkv_proj.\2"),
    Fusing(
        re.compile(r"\.(?P<part>q_a_proj|kv_a_proj_with_mqa)\.weight$"),
        ("q_a_proj", "kv_a_proj_with_mqa"),
        ".fused_qkv_a_proj.weight",
    ),
    Fusing(
        re.compile(r"\.experts\.(?P<expert>\d+)\.(?P<part>gate_proj|up_proj)\.weight$"),
        ("gate_proj", "up_proj"),
        ".experts.w13_weight",
    ),
    Fusing(
        re.compile(r"\.experts\.(?P<expert>\d+)\.(?P<part>down_proj)\.weight$"),
        ("down_proj",),
        ".experts.w2_weight",
    ),
    Fusing(
        re.compile(r"\.(?P<part>gate|up)_proj\.(weight|bias)$"), ("gate", "up"),
        r".gate_up_proj.\2",
    ),
)  # fmt: skip

_RENAMED = (
    (re.compile(r"\.experts\.routed_experts\."), ".experts."),
    (re.compile(r"(\.experts\.\d+)\.w1\.weight$"), r"\1.gate_proj.weight"),
    (re.compile(r"(\.experts\.\d+)\.w3\.weight$"), r"\1.up_proj.weight"),
    (re.compile(r"(\.experts\.\d+)\.w2\.weight$"), r"\1.down_proj.weight"),
    (re.compile(r"\.experts\.gate_up_proj$"), ".experts.w13_weight"),
    (re.compile(r"\.experts\.gate_up_proj_bias$"), ".experts.w13_bias"),
    (re.compile(r"\.experts\.down_proj$"), ".experts.w2_weight"),
    (re.compile(r"\.experts\.down_proj_bias$"), ".experts.w2_bias"),
)

REORDERED = re.compile(r"\.(query_key_value|[Ww]qkv|c_attn|c_proj|c_fc)\.(weight|bias)$")
"""Tensors that engines transpose or regroup as they load them (GPT-2, GPT-NeoX, BLOOM, InternLM2):
the order of their elements says nothing."""


@dataclass(frozen=True)
class Comparison:
    """Of tensors that a side should hold, by their own names, sorted."""

    differing: tuple[str, ...]
    unseen: tuple[str, ...]
    """Which the side does not have under any name that is known: nothing was compared."""


def compare_weights(held: Sequence[Fingerprints], wanted: Fingerprints) -> Comparison:
    """What one process holds, or several that divide a model, against what they should.

    Where a side fuses tensors (q, k and v in one) and does not tell the parts apart, all of those
    in a fused one that differs are named.
    """
    sides, expected = [by_shared_name(one) for one in held], by_shared_name(wanted)
    differing, unseen = set[tuple[str, Place]](), set[str]()
    for shared, parts in expected.items():
        found = [side[shared] for side in sides if shared in side]
        if not found:
            unseen.add(shared)
        elif all(one.keys() == parts.keys() for one in found):
            differing |= {
                (shared, place)
                for place, part in parts.items()
                if not _agree([one[place] for one in found], part)
            }
        elif not _agree([whole(one) for one in found], whole(parts)):
            differing |= {(shared, place) for place in parts}
    places = {name: _place(name) for name in sorted(wanted)}
    return Comparison(
        tuple(name for name, (shared, place) in places.items() if (shared, place) in differing),
        tuple(name for name, (shared, _) in places.items() if shared in unseen),
    )


def differing_tensors(infer: Fingerprints, train: Fingerprints) -> list[str]:
    """Names (fused where a side fuses) of tensors whose values differ; empty if none compared.

    Bit by bit; sides that hold a weight in different dtypes agree where one is the other's
    rounding.
    """
    found = compare_weights([infer], train)
    return sorted({_place(name)[0] for name in found.differing})


def tensors_unlike(suspect: Fingerprints, reference: Fingerprints) -> tuple[str, ...]:
    """Checkpoint names of the tensors whose values are not the reference's."""
    return compare_weights([suspect], reference).differing


def compared_tensors(infer: Fingerprints, train: Fingerprints) -> int:
    """How many tensors, fused ones once, both sides have."""
    return len(by_shared_name(infer).keys() & by_shared_name(train).keys())


def _agree(held: Sequence[Fingerprint], wanted: Fingerprint) -> bool:
    """A tensor is whole in every process, or divided over them: then the parts add up.

    A divided one may be held several times (key heads fewer than processes), and a process may hold
    zeros in its place (the bias of a sum that another process adds).
    """
    if len(held) == 1:
        return held[0].agrees(wanted)
    if all(one.numel >= wanted.numel for one in held):
        some = [one for one in held if any(one.values.values())] or held
        return all(one.agrees(wanted) for one in some)
    added = total(held)
    times = max(1, added.numel // wanted.numel)
    return added.agrees(replace(total([wanted] * times), dtype=wanted.dtype))


def by_shared_name(fingerprints: Fingerprints) -> dict[str, Parts]:
    """Parts by the names that both sides share, which are those of the fused tensors."""
    found: dict[str, Parts] = {}
    for name, fingerprint in fingerprints.items():
        shared, place = _place(name)
        if REORDERED.search(shared):
            fingerprint = replace(fingerprint, placed=None)
        found.setdefault(shared, {})[place] = fingerprint
    return found


def whole(parts: Parts) -> Fingerprint:
    """Of the fused tensor that has these parts."""
    ordered = [part for _, part in sorted(parts.items())]
    return ordered[0] if len(ordered) == 1 else joined(ordered)


def _place(name: str) -> tuple[str, Place]:
    """The name that both sides share, and the tensor's place in what it names."""
    module, _, tensor = name.rpartition(".")
    name = f"{canonical_name(module)}.{tensor}" if module else name
    for pattern, replacement in _RENAMED:
        name = pattern.sub(replacement, name)
    for fusing in _FUSINGS:
        match = fusing.pattern.search(name)
        if match is not None:
            expert = int(match.groupdict().get("expert") or 0)
            place = (expert, fusing.parts.index(match["part"]))
            return name[: match.start()] + match.expand(fusing.fused), place
    return name, (0, 0)
