"""verl on a CPU: a platform for its own registry, and what stands in for what needs a GPU.

verl has platforms for CUDA, ROCm and Ascend, and calls a device of one whether there is one or not.
What a CPU answers is here, through verl's extension point (`verl.plugin.platform`); no function of
verl is replaced. Whatever stands in for something is named in the capture, and what nothing can
stand in for is an error.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import Any

from mismatch_lab.errors import InputError

NAME = "mismatch-lab's CPU platform of verl"
ATTENTION = "model.override_config.attn_implementation"
FUSED = "model.fused_kernel_options.impl_backend"
LOG_SOFTMAX = (
    "log-probs by torch in the dtype of the logits (verl's own way without flash-attn) in place of "
    "flash-attn's cross-entropy, which is float32 inside: in bfloat16 they are rounded"
)
NEEDS_GPU = {
    ATTENTION: ("flash_attention_2", "flash_attention_3"),
    FUSED: ("triton", "liger"),
    "model.use_liger": (True,),
}
"""Entry -> values that have no code for a CPU."""


def refuse(handed_on: dict[str, Any]) -> None:
    """Refuse what a configuration says and a CPU cannot do.

    Raises:
        InputError: nothing can stand in for it.
    """
    for name, values in NEEDS_GPU.items():
        if name == FUSED and not handed_on.get("model.use_fused_kernels"):
            continue  # verl does not look at it
        if handed_on.get(name) in values:
            raise InputError(
                f"{name}={handed_on[name]} of verl needs a GPU, and none is here.",
                f"Say another with --trainer-arg {name}=… (attention: eager or sdpa).",
            )


def stand_ins(
    handed_on: dict[str, Any], attention: str, tied: bool
) -> tuple[dict[str, Any], list[str]]:
    """Entries that a CPU needs otherwise than verl has them, and the words for the capture.

    Args:
        handed_on: what the user's configuration says.
        attention: transformers' own choice for the model.
        tied: whether the head's weights are the embedding's.

    Raises:
        InputError: what would stand in cannot do what the configuration asks for.
    """
    entries: dict[str, Any] = {}
    notes = [NAME, LOG_SOFTMAX]
    if handed_on.get("actor.strategy", "fsdp") == "fsdp":
        if handed_on.get("model.use_fused_kernels") and not tied:
            raise InputError(
                "model.use_fused_kernels of verl needs a GPU for this model: on a CPU fsdp2 stands "
                "in for fsdp, and shards a head of its own apart from what the kernel reads.",
                "Leave it out, or take a model whose head is its embedding.",
            )
        entries["actor.strategy"] = "fsdp2"
        notes.append(
            "actor.strategy=fsdp2 in place of fsdp: FSDP1 takes no parameters of a CPU"
            " (sync_module_states)"
        )
    if ATTENTION not in handed_on:
        entries[ATTENTION] = attention
        notes.append(f"{ATTENTION}={attention} in place of flash_attention_2, which needs a GPU")
    return entries, notes


def activate() -> None:
    """Have verl find this platform, and its engine that is registered for CUDA."""
    from verl.plugin.platform import set_platform

    os.environ["VERL_ENGINE_DEVICE"] = "cuda"
    set_platform(_platform())


class _Memory:
    """What verl asks of `torch.cuda`, where there is none: nothing is held, nothing to wait for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        answers: dict[str, Any] = {"is_available": False, "mem_get_info": (0, 0)}
        return lambda *_args, **_more: answers.get(name, 0)


ANSWERS: dict[str, Any] = {
    "is_available": True, "device_count": 1, "set_device": None, "synchronize": None,
    "set_allocator_settings": None, "empty_cache": None, "get_device_capability": (None, None),
    "communication_backend_name": "gloo", "visible_devices_envvar": "CUDA_VISIBLE_DEVICES",
    "nvtx_range": nullcontext(), "profiler_start": None, "profiler_stop": None,
    "ray_resource_name": "CPU", "ray_noset_envvars": [], "is_ipc_supported": False, "cudart": None,
}  # fmt: skip
"""What a CPU answers to verl's platform methods, whatever they are given."""


def _platform() -> Any:
    import torch
    from verl.plugin.platform import PlatformBase

    def always(answer: Any) -> Any:
        return lambda *_args, **_more: answer

    def seed(_self: Any, value: int) -> None:
        torch.manual_seed(value)

    answers = {name: always(answer) for name, answer in ANSWERS.items()}
    answers |= {"current_device": always(torch.device("cpu"))}
    answers |= {"manual_seed": seed, "manual_seed_all": seed}
    held = {"device_name": "cpu", "vendor_name": "none", "device_module": _Memory()}
    return type("Cpu", (PlatformBase,), answers | held)()
