"""vLLM's own weight transfer (`WeightTransferConfig`): an update is started, sent and finished.

What vLLM does between start and finish is vLLM's. The way that tensors take is not: each of its
transports needs CUDA (0.32 on a CPU: `ipc` starts and fails at the first tensor, `nccl` before it),
so one of our own is registered, which hands over tensors that lie in this process's memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mismatch_lab.errors import InputError
from mismatch_lab.schema import OptionValue

BACKEND = "mismatch_lab"
"""Name under which vLLM knows it."""


def configured(given: Mapping[str, OptionValue]) -> dict[str, Any]:
    """Arguments of `vllm.LLM` under which it has the backend.

    Raises:
        InputError: another one is asked for.
    """
    if "weight_transfer_config" in given:
        raise InputError(
            "--weight-update weight_transfer sets weight_transfer_config itself: vLLM's own "
            "transports need a trainer on CUDA at their other end."
        )
    _register()
    return {"weight_transfer_config": {"backend": BACKEND}}


def _register() -> None:
    """Make the backend known to vLLM in this process, once."""
    from vllm.distributed.weight_transfer import WeightTransferEngineFactory
    from vllm.distributed.weight_transfer.base import WeightTransferUpdateInfo
    from vllm.distributed.weight_transfer.ipc_engine import IPCWeightTransferEngine

    if BACKEND in WeightTransferEngineFactory._registry:
        return

    @dataclass
    class Tensors(WeightTransferUpdateInfo):  # type: ignore[misc]  # vLLM has no types
        tensors: list[tuple[str, Tensor]]

    class InMemory(IPCWeightTransferEngine):  # type: ignore[misc]
        """Starts and finishes as vLLM's for one host does."""

        update_info_cls = Tensors

        def receive_weights(self, update_info: Tensors) -> None:
            self.model.load_weights(update_info.tensors)

    WeightTransferEngineFactory.register_engine(BACKEND, InMemory)


def transfer_weights(llm: Any, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Start, send one group after another, finish: a group is what vLLM itself would send at once,
    a decoder layer, or what stands before or behind them.
    """
    from vllm.distributed.weight_transfer.base import layerwise_groups

    held = dict(tensors)
    llm.collective_rpc("init_weight_transfer_engine", kwargs={"init_info": {}})
    llm.collective_rpc("start_weight_update")
    for names in layerwise_groups(list(held)):
        group = {"tensors": [(name, held[name]) for name in names]}
        llm.collective_rpc("update_weights", kwargs={"update_info": group})
    llm.collective_rpc("finish_weight_update")
