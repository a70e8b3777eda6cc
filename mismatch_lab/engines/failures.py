"""Whose failure it is that ended an engine: said as theirs, in their words, with what would run."""

from __future__ import annotations

import traceback
from pathlib import Path

from mismatch_lab.errors import DISK_FULL, EngineError, is_disk_full
from mismatch_lab.schema import SideSpec

PROGRAMS = {
    "vllm": "vLLM",
    "sglang": "SGLang",
    "transformers": "transformers",
    "verl": "verl",
    "mismatch_lab": "mismatch-lab",
}
"""Package -> program. Of torch and other libraries it is the program that called them."""

ALIKE = "Not every model, size and dtype has code in every program."
INSTEAD = {
    "infer": f"{ALIKE} With --engine hf transformers samples; another --dtype may run, too.",
    "second": f"{ALIKE} Without the second --engine the first is diagnosed.",
    "train": f"{ALIKE} Another --trainer-arg attn_implementation=… or --dtype may run.",
    "ref": f"{ALIKE} The fp32 reference is transformers' plainest code: it must run this model.",
}
"""What to try, by side."""

OURS = "Please report it. The log named below has the whole traceback."


def whose(error: BaseException) -> str:
    """The program whose code an exception came out of; empty where none of ours is in it."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        for part in Path(frame.filename).parts[::-1]:
            if part in PROGRAMS:
                return PROGRAMS[part]
    return ""


def in_words(error: BaseException) -> str:
    """Type and text of an exception; of one without a text, the line that raised it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    frames = traceback.extract_tb(error.__traceback__)
    text = lines[0] if lines else (frames[-1].line or "" if frames else "")
    name = type(error).__name__
    return f"{name}: {text}" if text and text != name else name


def runtime_error(error: BaseException, spec: SideSpec, doing: str) -> EngineError:
    """What ended a side while it was doing something, as an error for people."""
    said = in_words(error)
    if is_disk_full(error):
        return EngineError(*DISK_FULL)
    if isinstance(error, MemoryError) or "memory" in str(error).lower():
        return EngineError(f"Out of memory ({spec.engine}, {doing}): {said}", OURS)
    program = whose(error)
    if program in ("", "mismatch-lab"):
        return EngineError(f"A defect of mismatch-lab ({spec.engine}, {doing}): {said}", OURS)
    return EngineError(
        f"{program} fails on {spec.model} in {spec.dtype} ({spec.side}, {doing}): {said}",
        INSTEAD[spec.side],
    )
