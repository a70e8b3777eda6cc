"""Two engines on one command line: whose option is whose, and what is refused at once."""

from __future__ import annotations

import pytest

from mismatch_lab.errors import InputError
from mismatch_lab.findings.next_command import engine_by_itself
from mismatch_lab.run.engine_words import EngineOptions, options_of_engines
from mismatch_lab.run.request import DiagnoseRequest, build_run

BOTH = ("vllm", "sglang")


def split(engines: tuple[str, ...] = BOTH, **given: tuple[str, ...]) -> tuple[object, object]:
    parts = (given.get(name, ()) for name in ("args", "pythons", "plugins", "urls"))
    return options_of_engines(engines, *parts)


def test_each_engine_gets_what_bears_its_name() -> None:
    first, second = split(
        args=("sglang:disable_radix_cache=false", "vllm:seed=1", "sglang:url=http://x"),
        pythons=("sglang:/opt/sglang/python",),
        plugins=("vllm:p.py:f", "sglang:p.py:g"),
    )
    assert first == EngineOptions("vllm", ("seed=1",), None, "p.py:f")
    own = ("disable_radix_cache=false", "url=http://x")
    assert second == EngineOptions("sglang", own, "/opt/sglang/python", "p.py:g")


def test_of_one_engine_a_name_is_neither_needed_nor_in_the_way() -> None:
    first, second = split(("vllm",), args=("seed=1", "vllm:dtype=x"), plugins=("p.py:f",))
    assert (first, second) == (EngineOptions("vllm", ("seed=1", "dtype=x"), None, "p.py:f"), None)
    assert split((), urls=("http://x",)) == (EngineOptions(None, urls=("http://x",)), None)


def test_servers_are_those_of_http() -> None:
    first, second = split(("vllm", "http"), urls=("http://x",))
    assert first == EngineOptions("vllm")
    assert second == EngineOptions("http", urls=("http://x",))


@pytest.mark.parametrize(
    ("engines", "given", "said"),
    [
        (("vllm", "vllm"), {}, "not the same one twice"),
        (("vllm", "hf", "sglang"), {}, "at most two"),
        (BOTH, {"urls": ("http://x",)}, "which of the two engines are the servers"),
        (BOTH, {"args": ("seed=1",)}, "of which engine"),
        (BOTH, {"plugins": ("p.py:f",)}, "of which engine"),
        (BOTH, {"args": ("hf:threads=1",)}, "no --engine hf is named"),
        ((), {"args": ("sglang:x=1",)}, "no --engine sglang is named"),
        (BOTH, {"pythons": ("vllm:/a", "vllm:/b")}, "--engine-python is given twice"),
    ],
)
def test_what_does_not_say_whose_it_is_is_refused(
    engines: tuple[str, ...], given: dict[str, tuple[str, ...]], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        split(engines, **given)


def test_the_second_is_built_as_if_it_were_alone_and_does_not_sample() -> None:
    asked = DiagnoseRequest(
        model="some/name", engine="fake", engine_args=("seed=1",), trainer="fake",
        dtype="float32", second=EngineOptions("hf", ("threads=1",), "/opt/python", "p.py:f"),
    )  # fmt: skip
    run = build_run(asked)
    assert run.second is not None
    assert (run.second.side, run.second.engine, run.second.dtype) == ("second", "hf", "float32")
    assert run.second.args == {"threads": 1}
    assert (run.second.python, run.second.plugin) == ("/opt/python", "p.py:f")
    assert run.infer.args == {"seed": 1}
    assert run.programs == [run.infer, run.second, run.train]


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (EngineOptions("vlm"), "'vlm'"),
        (EngineOptions("hf", ("thread=1",)), "no option 'thread'"),
        (EngineOptions("http"), "Engine http has no server"),
        (EngineOptions("sglang", python="/p"), "SGLang cannot run GptOssForCausalLM on a CPU"),
    ],
)
def test_what_the_second_cannot_do_is_said_before_anything_starts(
    second: EngineOptions, said: str
) -> None:
    asked = DiagnoseRequest(engine="fake", trainer="fake", second=second)
    with pytest.raises(InputError, match=said):
        build_run(asked)


def test_the_next_command_keeps_what_is_the_engines_own() -> None:
    command = [
        *(
            "mismatch-lab",
            "diagnose",
            "m",
            "--engine",
            "vllm",
            "--engine=sglang",
            "--dtype",
            "bf16",
        ),
        *("--engine-arg", "vllm:seed=1", "--engine-arg=sglang:page_size=1", "--out", "runs/x"),
        *("--engine-config", "serve.yaml", "--weights-before", "old", "--weight-update", "w"),
        *("--engine-plugin", "sglang:p.py:f"),
    ]
    assert engine_by_itself(command, "sglang") == (
        "mismatch-lab diagnose m --dtype bf16 --engine-arg sglang:page_size=1 "
        "--weights-before old --engine-plugin sglang:p.py:f --engine sglang"
    )
    served = ["x", "diagnose", "--engine", "hf", "--engine", "http", "--engine-url", "http://x"]
    assert engine_by_itself(served, "http") == (
        "mismatch-lab diagnose --engine-url http://x --engine http"
    )
