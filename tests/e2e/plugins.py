"""Faults for the end-to-end tests, planted as a user would try a patch: one function each."""

from functools import partial
from typing import Any


def drop_sinks(model: Any) -> None:
    """Trainer: attention sinks without effect, as a kernel that does not know them."""
    for layer in model.model.layers:
        layer.self_attn.sinks.data.fill_(-1e4)


def leak_over_packs(model: Any) -> None:
    """Trainer: packed sequences see those before them, their positions restarted."""
    from mismatch_lab.faults.tokens import mask_as_one_document

    mask_as_one_document(model, 1.0)


def bias_routers(model: Any) -> None:
    """Trainer: experts selected with a bias that the engine does not have."""
    from mismatch_lab.faults.moe import select_with_bias

    select_with_bias(model, 0.5)


def perturb_o_proj(model: Any) -> None:
    """Engine: noise of a tenth of its deviation on one attention's output projection."""
    import torch

    weight = model.model.layers[2].attn.o_proj.weight.data
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    weight.add_(0.1 * weight.float().std() * noise.to(weight))


def perturb_experts(model: Any) -> None:
    """Engine: noise of a tenth of its deviation on the experts' second matrices of layer 1."""
    import torch

    for name, parameter in model.named_parameters():
        if "layers.1.mlp.experts" in name and name.endswith("w2_weight"):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
            parameter.data.add_(0.1 * parameter.float().std() * noise.to(parameter))
            return
    raise LookupError("no experts in layer 1")


def colder_than_reported(model: Any) -> None:
    """Engine: its sampler divides by 0.77 of the temperature that it was asked for."""
    from vllm.v1.sample.sampler import Sampler

    original = Sampler.apply_temperature
    Sampler.apply_temperature = staticmethod(
        lambda logits, temperature, all_random: original(logits, 0.77 * temperature, all_random)
    )


def nucleus(model: Any) -> None:
    """Engine: its sampler draws from a nucleus of 0.83, whatever was asked."""
    import torch
    from vllm.v1.sample.sampler import Sampler

    original = Sampler.sample

    def sample(self: Any, logits: Any, metadata: Any, *more: Any, **named: Any) -> Any:
        metadata.top_p = torch.full((len(logits),), 0.83)
        return original(self, logits, metadata, *more, **named)

    Sampler.sample = sample


def sglang_decode_sees_one_key_less(model: Any) -> None:
    """As SGLang's Triton backend does: of the sliding window, in decode alone."""
    from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend

    forward = TorchNativeAttnBackend.forward_decode

    def decode(self: Any, q: Any, k: Any, v: Any, layer: Any, *args: Any, **kwargs: Any) -> Any:
        window = layer.sliding_window_size
        layer.sliding_window_size = window - 1 if window and window > 0 else window
        try:
            return forward(self, q, k, v, layer, *args, **kwargs)
        finally:
            layer.sliding_window_size = window

    TorchNativeAttnBackend.forward_decode = decode


def head_in_bf16(model: Any) -> None:
    """Trainer: its head multiplies in bfloat16."""
    import torch
    from torch.nn import functional

    def narrow(module: Any, args: Any, output: Any) -> Any:
        hidden, weight = args[0].to(torch.bfloat16), module.weight.to(torch.bfloat16)
        return functional.linear(hidden, weight).to(output.dtype)

    model.get_output_embeddings().register_forward_hook(narrow)


def perturb_attention_output(model: Any) -> None:
    """Either engine: noise of a tenth of its deviation on layer 1's output projection."""
    import torch

    name = "layers.1.self_attn.o_proj.weight"
    weight = next(p for known, p in model.named_parameters() if known.endswith(name)).data
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    weight.add_(0.1 * weight.float().std() * noise.to(weight))


def products_in_tf32(model: Any) -> None:
    """Engine or trainer: attention and every linear layer in kernels that hand float32 to tensor
    cores, as Triton's do unless told otherwise.
    """
    import torch

    from mismatch_lab.faults.precision import cut, use_tf32

    use_tf32(model, 1.0)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.forward = partial(_cut_linear, module, cut)


def _cut_linear(module: Any, cut: Any, x: Any) -> Any:
    import torch

    return torch.nn.functional.linear(cut(x), cut(module.weight), module.bias)
