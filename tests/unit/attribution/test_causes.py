"""The catalogue of causes: complete, readable, and light to load."""

from __future__ import annotations

import io
import math
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from rich.console import Console

from mismatch_lab.attribution import causes
from mismatch_lab.attribution.causes import (
    CAUSES,
    FRAMEWORKS,
    all_causes,
    load_catalogue,
    load_cause,
    tells_apart,
)
from mismatch_lab.cli.explain_cause import print_cause
from mismatch_lab.errors import InputError
from mismatch_lab.faults import load_fault

# The contract: these ids are stable, and each is of this family.
FAMILIES = {
    "semantics": "raw-logprobs-temperature sampler-truncation sampling-penalties logit-scale "
    "logit-softcap vocab-padding partial-normaliser impossible-token",
    "precision": "lm-head-precision logprob-precision router-precision norm-precision "
    "tf32-products numerics-floor",
    "tokens": "shift-by-one packing-leak packing-boundary terminal-token retokenisation "
    "prompt-template sentinel-values",
    "attention": "attention-sinks-dropped sliding-window attention-softcap attention-scale "
    "rope-precision rope-theta rope-scaling decode-prefill-divergence",
    "cache": "kv-cache-quantisation stale-prefix-cache stale-graph",
    "moe": "router-renormalisation router-bias routing-two-pass routing-flips expert-layout "
    "expert-bias",
    "weights": "stale-tensor stale-weights adapter-not-delivered untied-head weight-quantisation",
    "trainer": "dropout-active batch-variance",
    "record": "copied-logprobs missing-logprobs wrong-candidate",
}
FAMILY = {id: family for family, ids in FAMILIES.items() for id in ids.split()}
HEAVY = ("torch", "transformers", "vllm", "sglang", "matplotlib", "numpy")


WITHOUT = ["numerics-floor", "unlisted"]
"""No fault proves these: one is no defect, the other any."""


def test_the_table_holds_every_cause_of_the_design_and_two_more() -> None:
    assert len(FAMILY) == 48
    assert {cause.id: cause.family for cause in all_causes()} == FAMILY | {"unlisted": "semantics"}


FOLDER = Path(causes.__file__).parent


def test_every_file_is_a_family_and_every_section_a_cause() -> None:
    files = {path.stem: tomllib.loads(path.read_text()) for path in FOLDER.glob("*.toml")}
    assert set(files) == set(FAMILIES)
    for family, sections in files.items():
        assert {id: CAUSES[id].family for id in sections} == dict.fromkeys(sections, family)
    assert [*CAUSES] == [*FAMILY, "unlisted"]  # `list causes` and ties have this order
    assert all(id == cause.id for id, cause in CAUSES.items())


def test_what_a_section_says_is_in_the_entry_with_its_lines_joined() -> None:
    for family in FAMILIES:
        for id, section in tomllib.loads((FOLDER / f"{family}.toml").read_text()).items():
            for key, value in section.items():
                entry = getattr(CAUSES[id], key)
                if isinstance(value, str):
                    assert entry == " ".join(value.split())
                elif isinstance(value, dict):
                    assert entry == {name: " ".join(text.split()) for name, text in value.items()}
                else:
                    assert entry == (tuple(value) if isinstance(value, list) else value)


TITLE = 'title = "Results depend on what else is in the batch"'
NEIGHBOURS = 'neighbours = ["routing-two-pass", "dropout-active", "numerics-floor", "packing-leak"]'
FAULT = 'fault = "batch-variance"'
SENTENCE = """
[batch-variance.tells_apart]
{} = "Repeat the same batch: with dropout it differs."
"""
WRONG = {
    "an unknown key": (TITLE, f'{TITLE}\ncolour = "red"', "colour: Unexpected"),
    "a missing key": (TITLE, "", "title: .*required"),
    "a misspelt key": (TITLE, TITLE.replace("title", "titel"), "title: .*required; titel: Unexp"),
    "a missing text": (TITLE, 'title = " "', "title: .* the text is missing"),
    "a number for a text": (TITLE, "title = 3", "title: .* string"),
    "what the name of the file says": (FAULT, 'family = "moe"', "family: the name"),
    "an unknown neighbour": ('"dropout-active", "num', '"dropout", "num', "cause 'dropout'"),
    "itself as a neighbour": ('"dropout-active", "num', '"batch-variance", "num', "other cause"),
    "a neighbour without a sentence": (
        NEIGHBOURS,
        NEIGHBOURS.replace("]", ', "router-bias"]'),
        "'router-bias' is said nowhere",
    ),
    "a pair said twice": (
        NEIGHBOURS,
        NEIGHBOURS + SENTENCE.format("dropout-active"),
        "said twice",
    ),
    "a sentence for a stranger": (
        NEIGHBOURS,
        NEIGHBOURS + SENTENCE.format("rope-theta"),
        "'rope-theta' is none of its neighbours",
    ),
    "an unknown framework": ("VLLM_BATCH_INVARIANT=1.", 'x."""\nveRL = """x.', "remedies: .*veRL"),
}


@pytest.mark.parametrize(("old", "new", "why"), WRONG.values(), ids=WRONG)
def test_a_wrong_section_is_refused_with_its_file_and_name(
    tmp_path: Path, old: str, new: str, why: str
) -> None:
    folder = _copy(tmp_path)
    before, section = (folder / "trainer.toml").read_text().split("[batch-variance]")
    assert old in section
    wrong = f"{before}[batch-variance]{section.replace(old, new, 1)}"
    (folder / "trainer.toml").write_text(wrong)
    with pytest.raises(InputError, match=rf"trainer\.toml, \[.*\]: .*{why}"):
        load_catalogue(folder)


def test_a_wrong_file_is_refused_by_name(tmp_path: Path) -> None:
    folder = _copy(tmp_path)
    trainer = (folder / "trainer.toml").read_text()
    (folder / "cash.toml").write_text("")
    with pytest.raises(InputError, match=r"cash\.toml: there is no family 'cash'"):
        load_catalogue(folder)
    (folder / "cash.toml").unlink()
    (folder / "trainer.toml").write_text('title = "x"\n' + trainer)
    with pytest.raises(InputError, match="'title' stands in no section"):
        load_catalogue(folder)
    (folder / "trainer.toml").write_text(trainer.replace("[dropout-active]", "[stale-graph]"))
    with pytest.raises(InputError, match=r"\[stale-graph\]: cache\.toml has"):
        load_catalogue(folder)
    (folder / "trainer.toml").write_text('[dropout-active]\ntitle = "x\n')
    with pytest.raises(InputError, match=r"trainer\.toml is not TOML: .*line 2"):
        load_catalogue(folder)
    (folder / "trainer.toml").unlink()
    with pytest.raises(InputError, match=r"trainer\.toml: cannot be read"):
        load_catalogue(folder)


def _copy(tmp_path: Path) -> Path:
    for path in FOLDER.glob("*.toml"):
        shutil.copy(path, tmp_path)
    return tmp_path


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


def test_neighbours_can_be_told_apart_from_either_side() -> None:
    for cause in all_causes():
        assert len(set(cause.neighbours)) == len(cause.neighbours)
        for neighbour in cause.neighbours:
            said = tells_apart(cause.id, neighbour)
            assert said == tells_apart(neighbour, cause.id)
            assert said.endswith(".")
    with pytest.raises(KeyError):
        tells_apart("stale-tensor", "rope-theta")


def test_causes_that_are_a_rounding_have_a_largest_size() -> None:
    # Unit roundoff of bfloat16, or of TF32's products, times 100 nats.
    sizes = {cause.id: cause.largest_nats for cause in all_causes()}
    assert {id: size for id, size in sizes.items() if math.isfinite(size)} == {
        "lm-head-precision": 2**-8 * 100,
        "logprob-precision": 2**-8 * 100,
        "tf32-products": 2**-11 * 100,
    }


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
