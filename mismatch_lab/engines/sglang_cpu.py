"""SGLang on a CPU: its own platform interface, filled in, and a stand-in for torchvision.

SGLang has a platform for CPUs with AMX and a kernel package that no index carries. What a plain CPU
needs is here, through the extension point that SGLang documents (`sglang.srt.platforms`): its own
torch code in place of kernels, and its plain pool of keys and values. No model code is replaced.

Found in two ways: the entry point `mismatch_lab_cpu` of this package, for servers that people
start, and `prepare`, for the engine that mismatch-lab starts.
"""

from __future__ import annotations

import atexit
import shutil
import sys
import tempfile
from collections.abc import Iterable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from mismatch_lab.errors import InputError

NAME = "mismatch-lab's CPU platform"
CLASS = f"{__name__}.CpuPlatform"
GROUP, ENTRY = "sglang.srt.platforms", "mismatch_lab_cpu"
"""Of the entry point."""
TORCHVISION = "torchvision"
MODELS = ("LlamaForCausalLM", "Qwen3MoeForCausalLM", "Gemma3ForCausalLM")
"""Architectures that were tried; others may run."""

REFUSED = {
    "GptOssForCausalLM": "torch's own attention, the only backend that SGLang has for a CPU "
    "without AMX, knows no attention sinks",
}
"""Architecture -> why SGLang cannot run it on a CPU."""


def refuse(architectures: Iterable[str] | None) -> None:
    """Refuse what SGLang cannot run on a CPU, before anything is started.

    Raises:
        InputError: the architecture has no code for a CPU.
    """
    for name in architectures or ():
        if name in REFUSED:
            raise InputError(
                f"SGLang cannot run {name} on a CPU: {REFUSED[name]}.",
                "On a GPU it can; on a CPU --engine vllm runs it. SGLang was tried on a CPU with "
                f"{', '.join(MODELS)}.",
            )


def activate() -> str | None:
    """What SGLang asks of a platform plugin: the class to use, or None where it is not for us."""
    return CLASS if on_cpu() else None


def on_cpu() -> bool:
    """Whether SGLang would find no accelerator, and was not told to use its own CPU platform."""
    import os

    import torch

    chosen = os.environ.get("SGLANG_USE_CPU_ENGINE", "0") == "1"
    return not chosen and torch.accelerator.current_accelerator() is None


def prepare() -> bool:
    """Make SGLang importable and runnable here; before it is imported, in each of its processes.

    Returns whether the CPU platform is in place.
    """
    stand_in_for_torchvision()
    if not on_cpu():
        return False
    if not entry_points(group=GROUP, name=ENTRY):
        _announce()
    return True


def _announce() -> None:
    """The entry point, where this package is run without being installed (`--engine-python`)."""
    folder = Path(tempfile.mkdtemp(prefix="mismatch-lab-platform-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    info = folder / "mismatch_lab_platform-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: mismatch-lab-platform\nVersion: 0\n"
    )
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{ENTRY} = {__name__}:activate\n")
    sys.path.append(str(folder))


def __getattr__(name: str) -> Any:
    """`CpuPlatform`, made when it is asked for: its bases are SGLang's."""
    if name != "CpuPlatform":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    made = globals()[name] = _platform()
    return made


def _platform() -> type:
    from sglang.srt.platforms.cpu import CpuDeviceMixin
    from sglang.srt.platforms.device_mixin import PlatformEnum
    from sglang.srt.platforms.interface import SRTPlatform

    class CpuPlatform(CpuDeviceMixin, SRTPlatform):  # type: ignore[misc, unused-ignore]
        _enum = PlatformEnum.OOT
        device_name = "cpu"
        device_type = "cpu"

        def is_pin_memory_available(self, device: Any = None) -> bool:
            return False

        def get_default_attention_backend(self) -> str:
            return "torch_native"

        def get_dispatch_key_name(self) -> str:
            return "native"  # of each layer the implementation in plain torch

        def get_mha_kv_pool_cls(self) -> type:
            from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool

            return MHATokenToKVPool  # type: ignore[no-any-return, unused-ignore]

        def get_paged_allocator_cls(self) -> type:
            return _allocator()

    return CpuPlatform


def _allocator() -> type:
    """SGLang asks for a paged allocator whatever the page; its plain one has pages of one token."""
    from sglang.srt.mem_cache.allocator import TokenToKVPoolAllocator

    class OneTokenPages(TokenToKVPoolAllocator):  # type: ignore[misc, unused-ignore]
        def __init__(
            self,
            size: int,
            page_size: int = 1,
            dtype: Any = None,
            device: Any = None,
            kvcache: Any = None,
            need_sort: bool = False,
        ) -> None:
            if page_size != 1:
                raise ValueError(f"On a CPU a page of the cache is one token, not {page_size}.")
            super().__init__(size, dtype, device, kvcache, need_sort)

    return OneTokenPages


class _Placeholder(type):
    """A class of which any attribute is a name: enough for tables that are made at import."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return f"{cls.__name__}.{name}"


class _TorchvisionFinder(MetaPathFinder, Loader):
    """torchvision and whatever is in it, as empty modules whose names are placeholders."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname.partition(".")[0] != TORCHVISION:
            return None
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = ModuleType(spec.name)
        module.__dict__["__version__"] = "0"

        def placeholder(name: str) -> type:
            if name.startswith("__"):
                raise AttributeError(name)
            return _Placeholder(name, (), {})

        module.__dict__["__getattr__"] = placeholder
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run."""


def stand_in_for_torchvision() -> None:
    """Where it is not installed: SGLang registers image processors on import, whatever it serves.

    The package index has CUDA builds of torchvision alone, which break beside a CPU's torch.
    """
    if TORCHVISION not in sys.modules and find_spec(TORCHVISION) is None:
        sys.meta_path.append(_TorchvisionFinder())
