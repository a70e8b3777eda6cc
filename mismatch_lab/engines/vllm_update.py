"""New weights for a running vLLM engine through vLLM's own paths, and tensors loaded again.

Of its weight transfer (`WeightTransferConfig`) what vLLM does between start and finish is vLLM's.
So is the way that tensors take on a GPU: its `ipc`, by which a trainer on the same GPU lends its
memory; the trainer is a process of our own that holds the checkpoint. Without CUDA none of vLLM's
transports works (0.32: `ipc` starts and fails at the first tensor, `nccl` before it), so there one
of ours is registered, which hands over tensors that lie in this process's memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor

from mismatch_lab.checkpoints.tensors import stored_tensors
from mismatch_lab.engines.whole_state import torch_tensor, whole_state
from mismatch_lab.errors import EngineError, InputError
from mismatch_lab.schema import OptionValue, WeightUpdate


def update_weights(llm: Any, model: str, how: WeightUpdate) -> None:
    """Give a running engine the weights of `model`, and believe it when it reports success.

    Raises:
        EngineError: vLLM refused, with its words.
    """
    weights: dict[str, Any] = {"weights_path": model}
    if how == "weights_iterator":
        weights = {"weights_iterator": whole_state(model)}
    try:
        if how == "weight_transfer":
            transfer_weights(llm, model)
        else:
            llm.collective_rpc("reload_weights", kwargs=weights)
    except Exception as error:
        raise EngineError(
            f"vLLM could not be updated to {model} by {how}: {type(error).__name__}: {error}",
            "Its own update path failed; a new engine on the checkpoint needs none.",
        ) from error


def reload_tensors(module: Any, model: str, names: tuple[str, ...]) -> None:
    """Load single tensors of a checkpoint into vLLM's module, before kernels repack its weights.

    Raises:
        InputError: the checkpoint has no such tensor.
        EngineError: vLLM's loader failed.
    """
    stored = stored_tensors(model)
    unknown = [name for name in names if name not in stored]
    if unknown:
        raise InputError(f"{model} has no tensor {unknown[0]!r} to load again.")
    try:
        module.load_weights([(name, torch_tensor(stored[name])) for name in names])
    except Exception as error:
        raise EngineError(
            f"vLLM could not load {names[0]} again: {type(error).__name__}: {error}"
        ) from error


IN_MEMORY, SAME_GPU = "mismatch_lab", "ipc"
"""Names under which vLLM knows our transport and its own."""


def configured(given: Mapping[str, OptionValue]) -> dict[str, Any]:
    """Arguments of `vllm.LLM` under which it has the backend.

    Raises:
        InputError: another one is asked for.
    """
    if "weight_transfer_config" in given:
        raise InputError(
            "--weight-update weight_transfer sets weight_transfer_config itself: another transport "
            "needs a trainer of yours at its other end."
        )
    if torch.cuda.is_available():
        return {"weight_transfer_config": {"backend": SAME_GPU}}
    _register()
    return {"weight_transfer_config": {"backend": IN_MEMORY}}


def _register() -> None:
    """Make ours known to vLLM in this process, once."""
    from vllm.distributed.weight_transfer import WeightTransferEngineFactory
    from vllm.distributed.weight_transfer.base import WeightTransferUpdateInfo
    from vllm.distributed.weight_transfer.ipc_engine import IPCWeightTransferEngine

    if IN_MEMORY in WeightTransferEngineFactory._registry:
        return

    @dataclass
    class Tensors(WeightTransferUpdateInfo):  # type: ignore[misc]  # vLLM has no types
        tensors: list[tuple[str, Tensor]]

    class InMemory(IPCWeightTransferEngine):  # type: ignore[misc]
        """Starts and finishes as vLLM's for one host does."""

        update_info_cls = Tensors

        def receive_weights(self, update_info: Tensors) -> None:
            self.model.load_weights(update_info.tensors)

    WeightTransferEngineFactory.register_engine(IN_MEMORY, InMemory)


def transfer_weights(llm: Any, model: str) -> None:
    """Start, send a checkpoint's tensors group by group, finish.

    Raises:
        EngineError: the process that lends them died.
    """
    offered = _lent if torch.cuda.is_available() else _in_memory
    with offered(model) as groups:
        llm.collective_rpc("init_weight_transfer_engine", kwargs={"init_info": {}})
        llm.collective_rpc("start_weight_update")
        for group in groups:
            llm.collective_rpc("update_weights", kwargs={"update_info": group})
        llm.collective_rpc("finish_weight_update")


@contextmanager
def _in_memory(model: str) -> Iterator[Iterator[dict[str, Any]]]:
    yield ({"tensors": group} for group in _groups(model))


@contextmanager
def _lent(model: str) -> Iterator[Iterator[dict[str, Any]]]:
    """What vLLM's `ipc` is told of each group. A process holds them all until the update is
    finished: vLLM may keep tensors of a layer that is not complete, and what is lent is not copied.
    """
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    lender = context.Process(target=_lend, args=(theirs, model), daemon=True)
    lender.start()
    theirs.close()
    try:
        yield _received(ours)
    finally:
        ours.close()
        lender.join()


def _received(channel: Connection) -> Iterator[dict[str, Any]]:
    try:
        while (group := channel.recv()) is not None:
            yield group
    except EOFError:
        raise EngineError("What lends the new weights has died: see the run's logs.") from None


def _lend(channel: Connection, model: str) -> None:
    """In the trainer's place: put each group on the GPU, say where it is, and hold it."""
    from torch.multiprocessing import reductions

    shared: Any = reductions.reduce_tensor
    gpu = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
    held = []
    for group in _groups(model):
        lent = [(name, tensor.cuda().contiguous()) for name, tensor in group]
        held.append(lent)
        torch.cuda.synchronize()
        channel.send(
            {
                "names": [name for name, _ in lent],
                "dtype_names": [str(tensor.dtype).removeprefix("torch.") for _, tensor in lent],
                "shapes": [list(tensor.shape) for _, tensor in lent],
                "ipc_handles": [{gpu: shared(tensor)[1]} for _, tensor in lent],
            }
        )
    channel.send(None)
    with suppress(EOFError, OSError):
        channel.recv()  # nothing comes: the other end is closed when the update is finished


def _groups(model: str) -> Iterator[list[tuple[str, Tensor]]]:
    """What vLLM itself would send at once: a decoder layer, or what stands before or behind them;
    the whole of it where vLLM knows no such groups (0.22).
    """
    held = dict(whole_state(model))
    try:
        from vllm.distributed.weight_transfer.base import layerwise_groups
    except ImportError:
        yield list(held.items())
        return
    for names in layerwise_groups(list(held)):
        yield [(name, held[name]) for name in names]
