"""What kernels read, put back as the checkpoint has it: on modules shaped as vLLM's are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from mismatch_lab.checkpoints.fingerprint import fingerprint_tensors
from mismatch_lab.engines.vllm_weights import (
    READ_BACK_ROWS,
    copied_fingerprints,
    copies,
    held_fingerprints,
    parameters,
    read_back,
)
from mismatch_lab.findings.weights import compare_weights

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return (0.02 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))).to(dtype)


class Packed(nn.Module):
    """A linear layer whose matrix a kernel has packed away."""

    def __init__(self, matrix: Tensor, sizes: list[int] | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(0, dtype=matrix.dtype), requires_grad=False)
        self.input_size = matrix.shape[1]
        self.output_partition_sizes = sizes or [len(matrix)]
        self.cpu_linear = lambda x, _weight, _bias: linear(x, matrix)


class Experts(nn.Module):
    """As vLLM's `RoutedExperts`."""

    def __init__(self, backend: str) -> None:
        super().__init__()
        self.w13_weight = nn.Parameter(random(2, 6, 4), requires_grad=False)
        self.quant_method = SimpleNamespace(
            unquantized_backend=SimpleNamespace(name=backend),
            moe_kernel=SimpleNamespace(fused_experts=SimpleNamespace(w1_bias=random(2, 6))),
        )


def model(**modules: nn.Module) -> nn.Module:
    """The modules, in the first layer."""
    layer = nn.ModuleDict(modules)
    whole = nn.ModuleDict({"model": nn.ModuleDict({"layers": nn.ModuleList([layer])})})
    whole.packed_modules_mapping = {"qkv_proj": ["q_proj", "k_proj", "v_proj"]}  # type: ignore[assignment]
    return whole


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [8, READ_BACK_ROWS + 5])
def test_a_packed_matrix_is_read_back_bit_for_bit(width: int, dtype: torch.dtype) -> None:
    matrix = random(6, width, dtype=dtype)
    assert torch.equal(read_back(Packed(matrix)), matrix)


@pytest.mark.vllm
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit, while vLLM is imported
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [512, 2048])
def test_one_step_shows_in_what_onednn_has_packed(size: int, dtype: torch.dtype) -> None:
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

    old = random(size, size)
    signs = random(size, size, seed=1).sign()
    for lr in (0.0, 1e-6, 1e-5, 2e-4):
        matrix = (old + lr * signs).to(dtype)
        layer = nn.Module()
        layer.weight = nn.Parameter(matrix, requires_grad=False)
        dispatch_cpu_unquantized_gemm(layer, remove_weight=True)
        if layer.weight.numel():
            pytest.skip(f"vLLM packs no {dtype} on this processor")
        layer.input_size = size  # type: ignore[assignment]
        found = read_back(layer)
        assert torch.equal(found, matrix)
        assert torch.equal(found, old.to(dtype)) == (lr == 0)


def test_a_fused_layer_is_told_apart_into_its_parts() -> None:
    matrix = random(8, 4)
    fused = Packed(matrix, [4, 2, 2])
    fused.bias = nn.Parameter(torch.arange(8.0))
    held = {
        one.name: one.tensor for one in parameters(model(attn=nn.ModuleDict({"qkv_proj": fused})))
    }
    stem = "model.layers.0.attn"
    assert set(held) == {f"{stem}.{p}_proj.{kind}" for p in "qkv" for kind in ("weight", "bias")}
    assert torch.equal(held[f"{stem}.k_proj.weight"], matrix[4:6])
    assert held[f"{stem}.v_proj.bias"].tolist() == [6, 7]


def test_what_is_no_weight_of_a_checkpoint_is_left_out() -> None:
    layer = nn.Module()
    layer.register_buffer("kept", torch.ones(2))
    layer.register_buffer("cos_sin_cache", torch.ones(2), persistent=False)
    layer.register_buffer("_expert_map", torch.arange(2))
    layer.meta = nn.Parameter(torch.empty(2, device="meta"))
    assert set(held_fingerprints(model(rotary=layer))) == {"model.layers.0.rotary.kept"}


def test_rows_that_pad_a_vocabulary_are_left_out() -> None:
    head = nn.Module()
    head.weight = nn.Parameter(torch.ones(8, 3))
    head.shard_indices = SimpleNamespace(num_org_elements=5)
    (held,) = parameters(nn.ModuleDict({"lm_head": head}))
    assert (held.name, tuple(held.tensor.shape)) == ("lm_head.weight", (5, 3))


def test_experts_in_a_kernels_own_order_are_known_to_be() -> None:
    for backend, ordered in (("TRITON", True), ("FLASHINFER_TRTLLM", False)):
        (held,) = parameters(model(experts=Experts(backend)))
        assert held.ordered == ordered
    found = held_fingerprints(model(experts=Experts("FLASHINFER_TRTLLM")))
    assert [one.placed for one in found.values()] == [None]


def test_a_head_that_is_the_embedding_is_read_where_logits_are_made() -> None:
    # The parameter is new, the packed copy old: only an embedding without a head is read so.
    class ParallelLMHead(Packed):
        pass

    old, new = random(5, 4), random(5, 4, seed=1)
    embedding = Packed(old)
    embedding.weight = nn.Parameter(new, requires_grad=False)
    embedding.shard_indices = SimpleNamespace(num_org_elements=5)  # type: ignore[assignment]
    tied = nn.ModuleDict({"embed_tokens": embedding})
    wanted = fingerprint_tensors([("model.embed_tokens.weight", new)])
    assert compare_weights([held_fingerprints(tied)], wanted).differing == ()
    named = compare_weights([copied_fingerprints(tied)], wanted)
    assert named.differing == ("model.embed_tokens.weight",)
    head = ParallelLMHead(new)
    head.shard_indices = SimpleNamespace(num_org_elements=5)  # type: ignore[assignment]
    tied["lm_head"] = head
    assert set(copied_fingerprints(tied)) == {"lm_head.weight"}


def test_copies_that_kernels_hold_go_by_the_name_of_the_parameter() -> None:
    attention = nn.ModuleDict({"attn": nn.Module()})
    attention["attn"].impl = SimpleNamespace(sinks=random(4))
    experts = Experts("TRITON")
    gate = nn.Module()
    gate.e_score_correction_bias = nn.Parameter(torch.zeros(2))
    block = nn.ModuleDict({"gate": gate, "experts": nn.ModuleDict({"routed_experts": experts})})
    block["experts"].router = SimpleNamespace(e_score_correction_bias=torch.ones(2))
    held = {one.name: one.tensor for one in copies(model(attn=attention, mlp=block))}
    stem = "model.layers.0"
    assert set(held) == {
        f"{stem}.attn.sinks",
        f"{stem}.mlp.experts.routed_experts.w13_bias",
        f"{stem}.mlp.gate.e_score_correction_bias",
    }
    assert held[f"{stem}.mlp.gate.e_score_correction_bias"].tolist() == [1, 1]


def test_projections_that_mla_absorbs_are_put_together() -> None:
    heads, nope, value, rank = 3, 2, 4, 5
    matrix = random(heads * (nope + value), rank)
    projection: Any = nn.Module()
    projection.weight = nn.Parameter(matrix, requires_grad=False)
    by_head = matrix.view(heads, nope + value, rank)
    absorbed: Any = nn.Module()
    absorbed.kv_b_proj = projection
    absorbed.W_UK_T = by_head[:, :nope]  # [heads, nope, rank]
    absorbed.W_UV = by_head[:, nope:].transpose(1, 2)  # [heads, rank, value]
    attention = nn.ModuleDict({"kv_b_proj": projection, "mla_attn": absorbed})
    (held,) = copies(model(self_attn=attention))
    assert held.name == "model.layers.0.self_attn.kv_b_proj.weight"
    assert torch.equal(held.tensor, matrix)
