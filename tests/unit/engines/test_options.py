"""Options are known names with values of the default's type."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from mismatch_lab.engines.options import check_options, parse_options, vllm_arguments
from mismatch_lab.errors import InputError, MissingDependencyError
from mismatch_lab.schema import OptionValue, SideSpec


@dataclass(frozen=True)
class Options:
    name: str = "auto"
    count: int = 4
    share: float = 0.5
    eager: bool = False


def test_nothing_given_leaves_the_defaults() -> None:
    assert parse_options(Options, "toy", {}) == Options()


def test_what_is_given_is_taken() -> None:
    given: dict[str, OptionValue] = {"name": "x", "count": 2, "share": 0.1, "eager": True}
    assert parse_options(Options, "toy", given) == Options("x", 2, 0.1, True)


def test_a_whole_number_is_a_fraction_too() -> None:
    share = parse_options(Options, "toy", {"share": 1}).share
    assert share == 1.0
    assert isinstance(share, float)


def test_an_unknown_name_is_refused_and_the_known_are_listed() -> None:
    with pytest.raises(InputError, match="Engine toy has no option 'cuont'") as caught:
        parse_options(Options, "toy", {"cuont": 3})
    assert caught.value.hint == "Did you mean count? It has: count, eager, name, share."
    with pytest.raises(InputError) as caught:
        parse_options(Options, "toy", {"speed": 3})
    assert caught.value.hint == "It has: count, eager, name, share."


@pytest.mark.parametrize(
    ("name", "value"),
    [("count", 2.5), ("count", "2"), ("count", True), ("eager", 1), ("share", True), ("name", 3)],
)
def test_a_value_of_another_type_is_refused(name: str, value: OptionValue) -> None:
    with pytest.raises(InputError, match=f"Option {name} of engine toy wants"):
        parse_options(Options, "toy", {name: value})


def side(engine: str, python: str | None = None, **args: OptionValue) -> SideSpec:
    return SideSpec(
        side="train", engine=engine, model="m", dtype="float32", args=args, python=python
    )


@pytest.mark.parametrize("engine", ["hf", "fsdp", "fake"])
def test_a_sides_options_are_known_before_its_engine_is(engine: str) -> None:
    check_options(side(engine, micro_batch=2))
    # Also where the side runs elsewhere: these are this package's.
    for python in (None, "/some/python"):
        with pytest.raises(InputError, match=f"Engine {engine} has no option 'micro_batches'"):
            check_options(side(engine, python, micro_batches=2))


@pytest.mark.vllm
def test_vllms_arguments_are_those_that_it_takes() -> None:
    from dataclasses import fields

    from vllm.engine.arg_utils import EngineArgs

    assert vllm_arguments() == {field.name for field in fields(EngineArgs)}
    check_options(side("vllm", max_model_len=64))
    with pytest.raises(InputError, match="no engine argument 'max_len'"):
        check_options(side("vllm", max_len=64))
    check_options(side("vllm", "/some/python", max_len=64))  # another vLLM may have it


def trainer(**args: OptionValue) -> SideSpec:
    return SideSpec(side="train", engine="fsdp", model="m", dtype="bfloat16", args=args)


def test_liger_without_a_gpu_is_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mismatch_lab.engines.provenance.accelerators", lambda: [])
    check_options(trainer(liger=False))
    with pytest.raises(InputError, match="needs a GPU") as refused:
        check_options(trainer(liger=True))
    assert "Leave out --trainer-arg liger" in refused.value.hint
    monkeypatch.setattr("mismatch_lab.engines.provenance.accelerators", lambda: ["NVIDIA H200"])
    with pytest.raises(InputError, match="needs a GPU"):
        check_options(trainer(liger=True, device="cpu"))


def test_liger_that_is_not_installed_is_named_with_its_install_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mismatch_lab.engines.provenance.accelerators", lambda: ["NVIDIA H200"])
    monkeypatch.setattr("mismatch_lab.engines.liger.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="liger-kernel is not installed") as missing:
        check_options(trainer(liger=True))
    assert "mismatch-lab[liger]" in missing.value.hint
    # Another interpreter's packages are found out there.
    check_options(trainer(liger=True).model_copy(update={"python": "/opt/trainer/bin/python"}))
