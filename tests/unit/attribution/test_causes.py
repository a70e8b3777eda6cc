"""The catalogue of causes: complete, readable, and light to load."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from rich.console import Console

from mismatch_lab.attribution import causes
from mismatch_lab.attribution.causes import CAUSES, FRAMEWORKS, all_causes, load_cause
from mismatch_lab.attribution.causes.pairs import _PAIRS, tells_apart
from mismatch_lab.errors import InputError
from mismatch_lab.explain_cause import print_cause
from mismatch_lab.faults import load_fault

# The contract: these ids are stable, and each is of this family.
FAMILIES = {
    "semantics": "raw-logprobs-temperature sampler-truncation sampling-penalties logit-scale "
    "logit-softcap vocab-padding partial-normaliser impossible-token",
    "precision": "lm-head-precision logprob-precision router-precision norm-precision "
    "tf32-products numerics-floor",
    "tokens": "shift-by-one packing-leak packing-boundary terminal-token retokenisation "
    "prompt-template sentinel-values missing-logprobs",
    "attention": "attention-sinks-dropped sliding-window attention-softcap attention-scale "
    "rope-precision rope-theta rope-scaling decode-prefill-divergence",
    "cache": "kv-cache-quantisation stale-prefix-cache stale-graph",
    "moe": "router-renormalisation router-bias routing-two-pass routing-flips expert-layout "
    "expert-bias",
    "weights": "stale-tensor stale-weights adapter-not-delivered untied-head weight-quantisation",
    "trainer": "dropout-active batch-variance",
}
FAMILY = {id: family for family, ids in FAMILIES.items() for id in ids.split()}
HEAVY = ("torch", "transformers", "vllm", "sglang", "matplotlib", "numpy")


WITHOUT = ["numerics-floor", "unlisted"]
"""No fault proves these: one is no defect, the other any."""


def test_the_table_holds_every_cause_of_the_design_and_two_more() -> None:
    assert len(FAMILY) == 46
    assert {cause.id: cause.family for cause in all_causes()} == FAMILY | {"unlisted": "semantics"}


def test_a_row_a_module_a_file() -> None:
    folder = Path(causes.__file__).parent
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__", "base", "pairs"}
    assert modules == {id.replace("-", "_") for id in CAUSES}
    for id, target in CAUSES.items():
        assert target == f"{causes.__name__}.{id.replace('-', '_')}:CAUSE"
        assert load_cause(id).id == id


def test_loading_the_catalogue_loads_nothing_heavy() -> None:
    code = (
        "import sys; from mismatch_lab.attribution.causes import all_causes; all_causes(); "
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("id", CAUSES)
def test_texts_are_sentences(id: str) -> None:
    cause = load_cause(id)
    assert not cause.title.endswith(".")
    texts = [cause.mechanism, cause.signature, cause.confirmation, cause.remedy]
    for text in [*texts, *cause.remedies.values()]:
        assert len(text.split()) >= 2, text
        assert text.endswith("."), text
        assert text == " ".join(text.split()), text
    assert all(len(text.split()) >= 8 for text in texts)
    assert len({*texts, cause.title}) == 5


@pytest.mark.parametrize("id", CAUSES)
def test_every_framework_has_a_remedy_of_its_own(id: str) -> None:
    remedies = load_cause(id).remedies
    assert tuple(remedies) == FRAMEWORKS == ("verl", "TRL", "NeMo-RL", "slime", "FSDP")


@pytest.mark.parametrize("id", CAUSES)
def test_sources_are_addresses(id: str) -> None:
    sources = load_cause(id).sources
    assert sources
    assert len(set(sources)) == len(sources)
    for source in sources:
        address = urlsplit(source)
        assert (address.scheme, address.query, address.fragment) == ("https", "", "")
        assert address.hostname in {"github.com", "huggingface.co", "arxiv.org"}
        assert len(address.path) > 5


def test_neighbours_exist_and_can_be_told_apart() -> None:
    used = set()
    for cause in all_causes():
        assert cause.id not in cause.neighbours
        assert len(set(cause.neighbours)) == len(cause.neighbours)
        for neighbour in cause.neighbours:
            assert neighbour in CAUSES
            assert tells_apart(cause.id, neighbour) == tells_apart(neighbour, cause.id)
            used.add((min(cause.id, neighbour), max(cause.id, neighbour)))
    assert used == set(_PAIRS)  # no sentence that nobody sees
    assert all(text.endswith(".") for text in _PAIRS.values())


def test_every_cause_but_the_floor_has_neighbours_and_a_fault() -> None:
    assert all(cause.neighbours for cause in all_causes())
    assert [cause.id for cause in all_causes() if cause.fault is None] == WITHOUT


def test_a_page_can_be_printed_of_every_cause() -> None:
    for cause in all_causes():
        console = Console(file=io.StringIO(), width=72, highlight=False)
        print_cause(console, cause.id)
        assert isinstance(console.file, io.StringIO)
        lines = console.file.getvalue().splitlines()
        assert lines[0] == f"{cause.id}  ({cause.family})"
        # Only an address, which nobody would want cut, may be wider than the terminal.
        assert all(len(line) <= 72 or line.startswith("  https://") for line in lines)
        assert ("Proven by" in lines) == (cause.id not in WITHOUT)


def test_an_unknown_cause_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="love") as refused:
        load_cause("love")
    assert "stale-tensor" in refused.value.hint


@pytest.mark.parametrize("id", [id for id in CAUSES if id not in WITHOUT])
def test_the_fault_of_a_cause_has_it_as_its_first_answer(id: str) -> None:
    fault = load_cause(id).fault
    assert fault is not None
    assert load_fault(fault).causes[0] == id
