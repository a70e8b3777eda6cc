"""What decides which hypotheses are tried, of a record that says how its sides ran."""

from __future__ import annotations

import pytest

from mismatch_lab.attribution.context import _replays_graphs
from mismatch_lab.captures.arrays import capture_from_arrays, manifest_of
from mismatch_lab.schema import OptionValue, Sampling, SideSpec

ENGINE = SideSpec(side="infer", engine="recorded", model="m", dtype="float32")


@pytest.mark.parametrize(
    ("options", "may"),
    [
        ({}, True),  # nobody says
        ({"enforce_eager": True}, False),
        ({"enforce_eager": False}, True),
        ({"disable_cuda_graph": True}, False),
    ],
)
def test_graphs_may_be_replayed_unless_the_engine_says_no(
    options: dict[str, OptionValue], may: bool
) -> None:
    capture = capture_from_arrays([[5, 6]], [[0, -1.0]], [[0, 1]])
    manifest = manifest_of("decode", ENGINE, capture, Sampling(), options=options)
    assert _replays_graphs(manifest) == may
    assert _replays_graphs(None)
