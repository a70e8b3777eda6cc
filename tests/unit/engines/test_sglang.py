"""What of engine sglang needs no SGLang: answers read, options checked, interpreters found."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mismatch_lab.captures.taps import Tap
from mismatch_lab.engines import interpreters
from mismatch_lab.engines.options import check_options
from mismatch_lab.engines.sglang import _sampled, check_dtype
from mismatch_lab.engines.sglang_cpu import _TorchvisionFinder, refuse
from mismatch_lab.engines.sglang_options import check_sglang_names
from mismatch_lab.engines.sglang_recorder import ALL_ZEROS, Recorder, _whole_streams
from mismatch_lab.engines.sglang_score import prompt_logp
from mismatch_lab.engines.sglang_weights import parameters
from mismatch_lab.errors import EngineError, InputError, MissingDependencyError
from mismatch_lab.schema import SideSpec

LAST = 99
"""Last token of the vocabulary."""


def answer(*steps: tuple[float | None, int]) -> dict[str, Any]:
    return {"meta_info": {"input_token_logprobs": [[logp, token, None] for logp, token in steps]}}


def test_log_probs_of_a_prompt_are_those_of_its_tokens_but_the_first() -> None:
    found = prompt_logp(answer((None, 5), (-1.5, 7), (-0.25, 3)), [5, 7, 3], LAST)
    np.testing.assert_array_equal(found, np.array([np.nan, -1.5, -0.25], np.float32))


def test_zero_stands_for_the_last_token_of_the_vocabulary_alone() -> None:
    found = prompt_logp(answer((None, 5), (-1.5, 0)), [5, LAST], LAST)
    assert found[1] == -1.5
    with pytest.raises(EngineError, match="scored token 0 at place 1, where 98 stood"):
        prompt_logp(answer((None, 5), (-1.5, 0)), [5, 98], LAST)


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        (((None, 5),), "scored 1 tokens, not the 2"),
        (((None, 5), (-1.0, 8)), "scored token 8 at place 1, where 7 stood"),
        (((None, 5), (None, 7)), "no log-prob for a token of a prompt"),
        (((None, 5), (float("nan"), 7)), "no log-prob for a token of a prompt"),
    ],
)
def test_an_answer_of_other_tokens_or_without_numbers_is_refused(steps: Any, words: str) -> None:
    with pytest.raises(EngineError, match=words):
        prompt_logp(answer(*steps), [5, 7], LAST)


def test_sampled_tokens_and_their_log_probs_are_of_each_other() -> None:
    meta = {"output_token_logprobs": [[-0.5, 4, None], [-1.0, 6, None]]}
    assert _sampled({"output_ids": [4, 6], "meta_info": meta}) == ([4, 6], [-0.5, -1.0])
    with pytest.raises(EngineError, match="other tokens than it sampled"):
        _sampled({"output_ids": [4, 7], "meta_info": meta})


def test_an_argument_that_sglang_does_not_have_is_named_with_the_nearest() -> None:
    known = ["attention_backend", "page_size"]
    check_sglang_names(["page_size", "original_logprob"], known)
    with pytest.raises(InputError, match="no server argument 'atention_backend'") as refused:
        check_sglang_names(["atention_backend"], known)
    assert "Did you mean attention_backend?" in refused.value.hint
    with pytest.raises(InputError, match="option of its own"):
        check_sglang_names(["dtype"], [*known, "dtype"])


def test_gpt_oss_on_a_cpu_says_why_not() -> None:
    refuse(["LlamaForCausalLM"])
    with pytest.raises(InputError, match=r"on a CPU: .* no attention sinks"):
        refuse(["GptOssForCausalLM"])


def test_it_says_so_before_anything_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = SideSpec(side="infer", engine="sglang", model="mini-gpt-oss", dtype="float32")
    monkeypatch.setattr("mismatch_lab.engines.provenance.accelerators", lambda: ["NVIDIA H200"])
    check_options(spec)
    monkeypatch.setattr("mismatch_lab.engines.provenance.accelerators", lambda: [])
    with pytest.raises(InputError, match="SGLang cannot run GptOssForCausalLM on a CPU"):
        check_options(spec)


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place without SGLang, whose environment would be beside."""
    monkeypatch.delenv(interpreters.OWN["sglang"].variable, raising=False)
    monkeypatch.setattr(interpreters, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_sglangs_interpreter_is_the_one_that_make_sglang_made(nowhere: Path) -> None:
    python = nowhere / ".venv-sglang" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    with pytest.raises(MissingDependencyError, match="SGLang is not installed") as missing:
        interpreters.interpreter("sglang", None)  # half an environment is none
    assert "make sglang" in missing.value.hint
    (nowhere / ".venv-sglang" / ".installed").touch()
    assert interpreters.interpreter("sglang", None) == str(python)


def test_a_named_interpreter_comes_first_and_others_need_none(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert interpreters.interpreter("sglang", "/opt/python") == "/opt/python"
    assert interpreters.interpreter("vllm", None) is None
    monkeypatch.setenv(interpreters.OWN["sglang"].variable, "/opt/other")
    assert interpreters.interpreter("sglang", None) == "/opt/other"


@pytest.fixture
def stand_in() -> Iterator[None]:
    finder = _TorchvisionFinder()
    kept = {name: sys.modules.pop(name) for name in list(sys.modules) if "torchvision" in name}
    sys.meta_path.insert(0, finder)
    yield
    sys.meta_path.remove(finder)
    for name in [name for name in sys.modules if name.startswith("torchvision")]:
        del sys.modules[name]
    sys.modules.update(kept)


def test_what_stands_in_for_torchvision_has_whatever_is_asked_of_it(stand_in: None) -> None:
    transforms: Any = importlib.import_module("torchvision.transforms.v2")
    assert transforms.InterpolationMode.NEAREST == "InterpolationMode.NEAREST"
    assert transforms.InterpolationMode.NEAREST != transforms.InterpolationMode.BILINEAR
    with pytest.raises(AttributeError):
        _ = transforms.__path_of_nothing__


class TopK(nn.Module):
    """Chooses what it is told to."""

    def forward(self, ids: torch.Tensor, logits: torch.Tensor | None) -> Any:
        weights = torch.full(ids.shape, 0.5)
        return SimpleNamespace(topk_ids=ids, topk_weights=weights, router_logits=logits)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.ModuleDict({"mlp": TopK()})])
        self.logits_processor = SimpleNamespace(_get_logits=lambda logits: logits)


def routed(ids: list[list[int]], logits: list[list[float]] | None) -> Any:
    model = Model()
    recorder = Recorder(model, temperature=1.0, routing=True)
    recorder.attach()
    recorder.start(len(ids), None)
    scores = None if logits is None else torch.tensor(logits)
    model.layers[0]["mlp"](torch.tensor(ids), scores)  # type: ignore[index]
    recorder.release()
    return recorder._routing(len(ids))


def test_choices_are_recorded_best_first() -> None:
    # Of token 0 expert 2 has the larger logit, 3 against 1; of token 1 expert 0, 5 against 4.
    chosen, logits, why = routed([[0, 2], [0, 1]], [[1.0, 0.0, 3.0], [5.0, 4.0, 0.0]])
    assert chosen.tolist() == [[[2, 0]], [[0, 1]]]
    assert logits.shape == (2, 1, 3)
    assert why == ""


def test_choices_that_are_all_zeros_are_said_to_be_none() -> None:
    assert routed([[0, 0], [0, 0]], None) == (None, None, ALL_ZEROS)


def test_a_router_inside_a_kernel_is_named() -> None:
    recorder = Recorder(Model(), temperature=1.0, routing=True)
    assert recorder._routing(3)[2].startswith("SGLang routed inside a kernel in model.layers.0.mlp")


def test_logits_are_divided_by_the_temperature_while_it_records_and_not_after() -> None:
    model = Model()
    recorder = Recorder(model, temperature=0.5)
    recorder.attach()
    recorder.start(1, None)
    assert model.logits_processor._get_logits(torch.tensor([[1.0, 2.0]])).tolist() == [[2.0, 4.0]]
    assert len(recorder.logits or []) == 1


class Layer(nn.Module):
    """Keeps the residual aside, as SGLang's MoE models do."""

    def __init__(self) -> None:
        super().__init__()
        self.attn_boundary = object()


class RMSNorm(nn.Module):
    pass


def test_a_layer_that_keeps_the_residual_aside_is_given_the_whole_stream() -> None:
    names = ("model.layers.0", "model.layers.1")
    modules: dict[str, nn.Module] = {}
    for name in names:
        modules |= {name: Layer(), f"{name}.input_layernorm": RMSNorm()}
    tap = Tap(modules | {"model.norm": RMSNorm()}, {})
    tap.order = {f"{name}.input_layernorm": None for name in names}
    part, first, second, last = (torch.full((1, 2), float(v)) for v in range(4))
    recorded = {
        **{f"{name}{end}": part for name in names for end in ("", ":in")},
        "model.layers.0.input_layernorm:in": first,
        "model.layers.1.input_layernorm:in": second,
        "model.norm:in": last,
    }
    found = _whole_streams(recorded, tap)
    assert found["model.layers.0:in"] is first
    assert found["model.layers.0"] is found["model.layers.1:in"] is second
    assert found["model.layers.1"] is last


def test_weights_have_the_names_of_the_checkpoint() -> None:
    model = nn.Module()
    model.self_attn = nn.Module()
    fused = nn.Linear(2, 6, bias=False)
    fused.output_partition_sizes = [4, 1, 1]  # type: ignore[assignment]
    model.self_attn.qkv_proj = fused
    model.rotary = nn.Module()
    model.rotary.register_buffer("cos_sin_cache", torch.ones(3))
    table = nn.Embedding(8, 2)
    table.shard_indices = SimpleNamespace(num_org_elements=5)  # type: ignore[assignment]
    model.embed_tokens = table
    shapes = {name: tuple(tensor.shape) for name, tensor in parameters(model)}
    assert shapes == {
        "self_attn.q_proj.weight": (4, 2),
        "self_attn.k_proj.weight": (1, 2),
        "self_attn.v_proj.weight": (1, 2),
        "embed_tokens.weight": (5, 2),  # without the padding
    }


@pytest.mark.parametrize(
    ("architecture", "stored", "refused"),
    [
        ("GptOssForCausalLM", "torch.bfloat16", True),
        ("GptOssForCausalLM", "torch.float32", False),
        ("LlamaForCausalLM", "torch.bfloat16", False),
    ],
)
def test_a_dtype_that_only_a_part_of_the_model_would_take(
    architecture: str, stored: str, refused: bool
) -> None:
    """On an H200 it ended as `AssertionError: Incompatible dtypes` in a kernel."""
    with pytest.raises(InputError, match="in the dtype of config") if refused else nullcontext():
        check_dtype([architecture], stored, "float32")
