"""A model that is sharded first and filled after, on a CUDA GPU: `pytest -m gpu` this file.

Also runnable as a script where pytest is missing: `python tests/gpu/test_sharded_load_gpu.py`. One
rank goes the way that several go, so that one GPU is enough to see that values arrive where they
belong, and that nothing but the shards stays in its memory.
"""

from __future__ import annotations

import torch
import torch.distributed as dist

from mismatch_lab.checkpoints.config import EMBEDDED, resolve_model_path
from mismatch_lab.engines.options import TorchOptions
from mismatch_lab.engines.sharded_load import fill
from mismatch_lab.engines.torch_model import empty_model, load_model
from mismatch_lab.schema import SideSpec
from mismatch_lab.trainer import ranks
from mismatch_lab.trainer.config import TrainConfig
from mismatch_lab.trainer.policy import Policy, shard
from mismatch_lab.trainer.policy_model import PolicyModel

try:
    import pytest

    pytestmark = [
        pytest.mark.gpu,
        pytest.mark.timeout(300),
        pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU"),
    ]
except ImportError:  # a GPU machine without an index
    pass

IDS = torch.tensor([[5, 17, 40, 9, 33, 21]])
SLACK = 1.2
"""The allocator rounds sizes up."""


def test_filled_as_loaded() -> None:
    device = ranks.join()
    spec = SideSpec(
        side="train", engine="fsdp", model=resolve_model_path(EMBEDDED), dtype="float32"
    )
    source = load_model(spec, TorchOptions(), torch.float32)
    before = torch.cuda.memory_allocated() if device.type == "cuda" else 0
    vocabulary = int(source.config.vocab_size)  # type: ignore[union-attr, arg-type]
    model = PolicyModel(empty_model(spec, TorchOptions(), torch.float32), vocabulary)
    shard(model, "float32")
    fill(model, PolicyModel(source, vocabulary), device)
    assert {p.device.type for p in model.parameters()} == {device.type}
    held = sum(p.numel() * p.element_size() for p in model.parameters()) / dist.get_world_size()
    if device.type == "cuda":
        more = torch.cuda.memory_allocated() - before
        print(f"held {held / 2**20:.1f} MiB, allocated {more / 2**20:.1f} MiB")
        assert more < SLACK * held
    loaded = Policy(TrainConfig(), resolve_model_path(EMBEDDED)).model
    with torch.no_grad():
        found, expected = (m(IDS.to(device), None, 1.0).logp for m in (model, loaded))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    ranks.leave()


if __name__ == "__main__":
    torch.manual_seed(0)
    test_filled_as_loaded()
    print("filled as loaded")
