"""Liger's Triton kernels in a transformers model, as TRL (`use_liger_kernel`) and verl put them."""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from mismatch_lab.errors import InputError, MissingDependencyError

PACKAGE = "liger-kernel"
NO_GPU = "Option liger of engine fsdp needs a GPU: Liger's kernels are Triton's."
LEAVE_OUT = "Leave out --trainer-arg liger, or run where a GPU is."


def check_liger(on_gpu: bool, installed: bool | None = None) -> None:
    """Refuse what could not run, before anything is started.

    Args:
        on_gpu: whether the trainer runs on one.
        installed: whether its interpreter has Liger; None looks in this one.

    Raises:
        InputError: there is no GPU.
        MissingDependencyError: Liger is not installed.
    """
    if not on_gpu:
        raise InputError(NO_GPU, LEAVE_OUT)
    if not (find_spec("liger_kernel") is not None if installed is None else installed):
        raise MissingDependencyError(
            "Option liger of engine fsdp: liger-kernel is not installed in the trainer's "
            "interpreter.",
            "pip install 'mismatch-lab[liger]', or leave out --trainer-arg liger.",
        )


def apply_liger(model: Any) -> str:
    """Put Liger's kernels into a model, in place; what was done, for the record.

    Raises:
        InputError: Liger has none for this architecture, about which it would only write a log.
    """
    from liger_kernel.transformers.monkey_patch import (
        MODEL_TYPE_TO_APPLY_LIGER_FN,
        _apply_liger_kernel_to_instance,
    )

    kind = str(model.config.model_type)
    if kind not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise InputError(
            f"Liger {version(PACKAGE)} has no kernels for model type {kind}.",
            "Leave out --trainer-arg liger: a trainer that asks for them runs without them.",
        )
    _apply_liger_kernel_to_instance(model=model)
    return f"Liger {version(PACKAGE)}"
