"""From typed options to a run's specification."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mismatch_lab.checkpoints.config import resolve_model_path
from mismatch_lab.engines.plan import REF_ARGS
from mismatch_lab.errors import InputError
from mismatch_lab.mini import checkpoint_dir
from mismatch_lab.run.request import (
    DiagnoseRequest,
    build_run,
    check_engine,
    parse_args,
    resolve_dtype,
)
from mismatch_lab.schema import OptionValue

FAKE = DiagnoseRequest(model="some/name", engine="fake", trainer="fake")


def checkpoint(folder: Path, config: object) -> str:
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


# ---- dtype -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "dtype"),
    [
        ({"dtype": "float32"}, "float32"),
        ({"torch_dtype": "float16"}, "float16"),
        ({"dtype": "float16", "torch_dtype": "float32"}, "float16"),
        ({"dtype": None, "torch_dtype": "float32"}, "float32"),
        ({"dtype": "auto"}, "bfloat16"),
        ({}, "bfloat16"),
    ],
)
def test_without_a_dtype_it_is_the_checkpoints(
    tmp_path: Path, config: dict[str, str], dtype: str
) -> None:
    model = checkpoint(tmp_path, config)
    assert resolve_dtype(None, model) == dtype
    assert build_run(replace(FAKE, model=model)).infer.dtype == dtype


def test_a_hub_name_is_bfloat16_until_told_otherwise() -> None:
    assert resolve_dtype(None, "some/name") == "bfloat16"


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        ("fp32", "float32"),
        ("bf16", "bfloat16"),
        ("fp16", "float16"),
        ("half", "float16"),
        ("float32", "float32"),
    ],
)
def test_short_names_of_dtypes(tmp_path: Path, given: str, dtype: str) -> None:
    assert resolve_dtype(given, checkpoint(tmp_path, {"dtype": "float16"})) == dtype


@pytest.mark.parametrize("given", ["float64", "int8", "", "FP32"])
def test_an_unknown_dtype_lists_the_known(given: str) -> None:
    with pytest.raises(InputError) as caught:
        resolve_dtype(given, "some/name")
    assert repr(given) in caught.value.problem
    assert "float32, bfloat16, float16" in caught.value.hint


@pytest.mark.parametrize(("text", "said"), [("{", "not JSON"), ("[]", "not a JSON object")])
def test_a_config_that_is_none(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=rf"config\.json is {said}"):
        resolve_dtype(None, str(tmp_path))


# ---- engine and model --------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["engine", "trainer"])
def test_an_unknown_engine_lists_the_known(flag: str) -> None:
    with pytest.raises(InputError) as caught:
        build_run(replace(FAKE, **{flag: "vlm"}))  # type: ignore[arg-type]
    assert "'vlm'" in caught.value.problem
    for name in ("fake", "fsdp", "hf", "vllm"):
        assert name in caught.value.hint
        assert check_engine(name) == name


def test_the_embedded_model_is_a_checkpoint_with_a_dtype() -> None:
    run = build_run(replace(FAKE, model="mini-gpt-oss"))
    assert run.infer.model == run.train.model == run.ref.model == "mini-gpt-oss"
    assert resolve_model_path(run.infer.model) == str(checkpoint_dir())
    assert run.infer.dtype == "bfloat16"
    assert run.id.startswith("mini-gpt-oss-quick-")


def test_a_hub_name_is_left_as_it_is() -> None:
    assert resolve_model_path("some/name") == "some/name"
    assert build_run(FAKE).id.startswith("name-quick-")


@pytest.mark.parametrize("model", ["./nothing", "/nothing", "~/nothing"])
def test_a_wrong_path_is_no_hub_name(model: str) -> None:
    with pytest.raises(InputError, match=f"Model {model} does not exist"):
        build_run(replace(FAKE, model=model))


def test_a_folder_without_a_config_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no config\.json"):
        build_run(replace(FAKE, model=str(tmp_path)))


# ---- NAME=VALUE --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pair", "name", "value"),
    [
        ("micro_batch=8", "micro_batch", 8),
        ("micro-batch=8", "micro_batch", 8),
        ("n=-3", "n", -3),
        ("n=+3", "n", 3),
        ("share=0.5", "share", 0.5),
        ("rate=1e-3", "rate", 0.001),
        ("eager=true", "eager", True),
        ("eager=False", "eager", False),
        ("name=auto", "name", "auto"),
        ("name=nan", "name", "nan"),
        ("name=4bit", "name", "4bit"),
        ("url=a=b", "url", "a=b"),
        (" spaced = 1 ", "spaced", 1),
        ("empty=", "empty", ""),
    ],
)
def test_values_get_their_type(pair: str, name: str, value: OptionValue) -> None:
    found = parse_args((pair,), "--arg")
    assert found == {name: value}
    assert type(found[name]) is type(value)  # True == 1 would pass for it


@pytest.mark.parametrize("pair", ["micro_batch", "=8", "", " =1"])
def test_what_is_not_a_pair_is_named_with_its_flag(pair: str) -> None:
    with pytest.raises(InputError, match=r"--engine-arg .* is not of the form NAME=VALUE"):
        build_run(replace(FAKE, engine_args=(pair,)))


def test_a_name_given_twice_is_an_error() -> None:
    with pytest.raises(InputError, match="--trainer-arg micro_batch is given twice"):
        build_run(replace(FAKE, trainer_args=("micro_batch=1", "micro-batch=2")))


# ---- The whole run -----------------------------------------------------------------------------


def test_options_of_a_side_go_to_that_side() -> None:
    run = build_run(
        replace(
            FAKE,
            dtype="fp32",
            engine_args=("seed=1",),
            trainer_args=("seed=2",),
            engine_plugin="a.py:f",
            trainer_plugin="b.py:g",
            engine_python="/usr/bin/a",
            trainer_python="/usr/bin/b",
            trust_remote_code=True,
            command=("mismatch-lab", "diagnose"),
        )
    )
    infer, train = run.infer, run.train
    assert (infer.side, infer.args, infer.plugin) == ("infer", {"seed": 1}, "a.py:f")
    assert (train.side, train.args, train.plugin) == ("train", {"seed": 2}, "b.py:g")
    assert (infer.python, train.python) == ("/usr/bin/a", "/usr/bin/b")
    assert infer.dtype == train.dtype == "float32"
    assert infer.trust_remote_code
    assert run.provenance.command == ["mismatch-lab", "diagnose"]


def test_the_reference_is_plain_fp32_in_the_trainers_interpreter() -> None:
    asked = replace(
        FAKE, trainer="fsdp", trainer_args=("micro_batch=1",), trainer_plugin="b.py:g",
        trainer_python="/usr/bin/b", dtype="bf16",
    )  # fmt: skip
    ref = build_run(asked).ref
    assert (ref.side, ref.engine, ref.dtype) == ("ref", "hf", "float32")
    assert ref.args == REF_ARGS
    assert (ref.plugin, ref.python) == (None, "/usr/bin/b")


def test_the_reference_of_a_fake_trainer_is_a_fake_without_its_defects() -> None:
    ref = build_run(replace(FAKE, trainer_args=("defect=shift",), trainer_plugin="b.py:g")).ref
    assert (ref.engine, ref.dtype, ref.args, ref.plugin) == ("fake", "float32", {}, None)


def test_sampling_options_replace_the_probes() -> None:
    plain = build_run(FAKE).probe.sampling
    assert (plain.temperature, plain.top_p, plain.max_tokens, plain.seed) == (1.0, 1.0, 64, 0)
    asked = replace(FAKE, max_tokens=5, temperature=0.5, top_p=0.9, seed=7)
    found = build_run(asked).probe.sampling
    assert (found.temperature, found.top_p, found.max_tokens, found.seed) == (0.5, 0.9, 5, 7)


@pytest.mark.parametrize(
    ("option", "value"),
    [("temperature", float("nan")), ("temperature", 0.0), ("top_p", 1.5), ("max_tokens", 0)],
)
def test_sampling_that_makes_no_sense_is_named(option: str, value: float) -> None:
    with pytest.raises(InputError, match=f"--{option.replace('_', '-')} {value}"):
        build_run(replace(FAKE, **{option: value}))  # type: ignore[arg-type]


def test_depth_is_the_probes_unless_given() -> None:
    assert build_run(FAKE).depth == "quick"
    assert build_run(replace(FAKE, probe="standard")).depth == "standard"
    assert build_run(replace(FAKE, probe="standard", depth="deep")).depth == "deep"


def test_prompts_are_the_probes_unless_given(tmp_path: Path) -> None:
    assert len(build_run(FAKE).prompts) == 32
    path = tmp_path / "p.jsonl"
    path.write_text('{"token_ids": [1, 2]}\n')
    assert [p.token_ids for p in build_run(replace(FAKE, prompts=path)).prompts] == [[1, 2]]


# ---- Servers -----------------------------------------------------------------------------------


def test_servers_that_are_named_are_the_engine() -> None:
    asked = replace(FAKE, engine=None, engine_urls=("http://a:1/v1", "https://b"))
    infer = build_run(asked).infer
    assert (infer.engine, infer.urls) == ("http", ("http://a:1", "https://b"))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"engine": "http"}, "has no server"),
        ({"engine": "hf", "engine_urls": ("http://a:1",)}, "--engine hf does not go with"),
        ({"engine_plugin": "a.py:f", "engine_urls": ("http://a:1",)}, "--engine-plugin changes"),
        ({"engine_urls": ("http://a:1", "http://a:1/")}, "is given twice"),
        ({"engine_urls": ("http://u:p@a:1",)}, "holds a user or a password"),
        (
            {"engine_urls": ("http://a:1",), "engine_args": ("max_model_len=5",)},
            "has no option 'max_model_len'",
        ),
        (
            {
                "engine_urls": ("http://a:1",),
                "weight_update": "reload_weights",
                "weights_before": "m",
            },
            "Engine http cannot be given new weights",
        ),
    ],
)
def test_what_a_server_cannot_be_asked_is_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        build_run(replace(FAKE, **{"engine": None, **changed}))
