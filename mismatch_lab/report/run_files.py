"""What a finished run left on disk, with every optional part allowed to be missing."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from mismatch_lab.captures.align import Aligned, align
from mismatch_lab.captures.capture import Capture
from mismatch_lab.captures.store import MANIFEST, load_capture, load_manifest, load_token_text
from mismatch_lab.errors import InputError, MismatchLabError
from mismatch_lab.schema import Findings, Manifest, RunSpec, Side, Strict

Model = TypeVar("Model", bound=Strict)


@dataclass(frozen=True)
class RunFiles:
    """A run as the report needs it.

    `pair` holds the sampled tokens of the engine's first capture and the trainer's; None, with the
    reason in `problems`, when there are not two captures of the same tokens.
    """

    findings: Findings
    spec: RunSpec | None
    manifests: dict[str, Manifest]
    captures: dict[str, Capture]
    infer_id: str | None
    train_id: str | None
    pair: Aligned | None
    problems: list[str]
    text: dict[int, str] = field(default_factory=dict)
    """Of token ids, as far as any capture of the run knows it: the reference has a tokenizer where
    a record has none."""


def read_run(folder: Path) -> RunFiles:
    """Read findings, run.json and the captures the page draws from.

    Raises:
        InputError: `folder` holds no findings, or files of another version.
    """
    findings = _read(folder / "findings.json", Findings)
    if findings is None:
        raise InputError(
            f"{folder} is not a finished run: it has no findings.json.",
            "Name a folder that `mismatch-lab diagnose` or `compare` wrote.",
        )
    spec = _read(folder / "run.json", RunSpec)
    manifests, problems = _manifests(folder / "captures")
    infer_id, train_id = _sides(manifests)
    captures: dict[str, Capture] = {}
    for name in dict.fromkeys(n for n in (infer_id, "prefill", train_id) if n in manifests):
        assert name is not None
        try:
            captures[name], _ = load_capture(folder / "captures" / name, modules=False)
        except MismatchLabError as error:
            problems.append(error.problem)
    pair, why = _pair(captures, infer_id, train_id)
    problems += why
    text: dict[int, str] = {}
    for name in manifests:
        text |= load_token_text(folder / "captures" / name)
    return RunFiles(findings, spec, manifests, captures, infer_id, train_id, pair, problems, text)


def _read(path: Path, model: type[Model]) -> Model | None:
    if not path.is_file():
        return None
    try:
        return model.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} is not a file this version reads: {error}",
            "Make the run again with this version of mismatch-lab.",
        ) from error


def _manifests(folder: Path) -> tuple[dict[str, Manifest], list[str]]:
    manifests, problems = {}, []
    for path in sorted(folder.glob(f"*/{MANIFEST}")):
        if path.parent.name.startswith("."):  # half-written by a killed run
            continue
        try:
            manifests[path.parent.name] = load_manifest(path.parent)
        except MismatchLabError as error:
            problems.append(error.problem)
    return manifests, problems


def _sides(manifests: dict[str, Manifest]) -> tuple[str | None, str | None]:
    """The two captures whose tokens are shown; `compare` may have two of one side."""
    infer_id = _pick(manifests, "infer", ("decode", "prefill"))
    train_id = _pick(manifests, "train", ("train",))
    if len(manifests) == 2 and None in (infer_id, train_id):
        infer_id, train_id = sorted(manifests)
    return infer_id, train_id


def _pick(manifests: dict[str, Manifest], side: Side, preferred: tuple[str, ...]) -> str | None:
    """The side's main capture: by its usual name, else the first of that side (`compare`)."""
    for name in preferred:
        if name in manifests:
            return name
    return next((name for name, manifest in manifests.items() if manifest.side == side), None)


def _pair(
    captures: dict[str, Capture], infer_id: str | None, train_id: str | None
) -> tuple[Aligned | None, list[str]]:
    infer, train = captures.get(infer_id or ""), captures.get(train_id or "")
    if infer is None or train is None:
        lacking = "the engine" if infer is None else "the trainer"
        return None, [f"There is no capture of {lacking} in this run: no token can be shown."]
    try:
        return align(infer, train), []
    except MismatchLabError as error:
        return None, [f"The captures do not hold the same tokens: {error.problem}"]
