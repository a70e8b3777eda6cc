"""`explain ENGINE`: what it is started with where nothing is said, and every option of ours."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable
from dataclasses import fields

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mismatch_lab.engines import sglang_options, vllm_options
from mismatch_lab.engines.base import ENGINE_ABOUT
from mismatch_lab.engines.options import OPTIONS, SET_BY_US
from mismatch_lab.engines.settings import DEFAULTS, HOOKABLE, ON_CPU

OWN_NAMES = {
    "vllm": "vLLM's engine arguments, with underscores; `vllm serve --help` has them all",
    "sglang": "SGLang's server arguments, with underscores; "
    "`python -m sglang.launch_server --help` has them all",
}
"""Engines whose options are those of the program."""

SOMEBODYS_OWN = {
    "function": "FUNC(model, dtype) returns score(ids, positions, documents, temperature) -> logp; "
    "--trainer-arg NAME=VALUE is handed to FUNC, but for micro_batch: sequences at once. "
    "docs/engines.md has an example.",
    "trl": "--trainer-arg config=FILE.yaml: of `trl grpo --config`; --trainer-arg NAME=VALUE: any "
    "field of GRPOConfig; --trainer-arg micro_batch=N: sequences at once.",
    "verl": "--trainer-arg config=FILE.yaml: verl's configuration, of which "
    "actor_rollout_ref.model and .actor are read; --trainer-arg NAME=VALUE: any entry of them, as "
    "on verl's command line (actor.fsdp_config.model_dtype=bf16); --trainer-arg "
    "micro_batch=N: sequences at once. Where no GPU is, what stands in for verl's choice is named "
    "in the capture.",
}
"""What the options are of trainers that are somebody's own code."""

OF_SGLANG = {
    "original_logprob": "Log-probs of sampled tokens are from before the temperature: SGLang's "
    f"{sglang_options.ORIGINAL_LOGPROB}, which it reads from the environment alone."
}
"""Options that are ours and not SGLang's, with what they do."""

ENVIRONMENT = {"vllm": vllm_options.ENVIRONMENT, "sglang": sglang_options.ENVIRONMENT}


def print_engine(console: Console, name: str) -> None:
    """What an engine is, its defaults and its options."""
    console.print(f"{name}: {ENGINE_ABOUT[name]}")
    if name in OPTIONS:
        flags = "--trainer-arg" if name == "fsdp" else "--engine-arg or --trainer-arg"
        _head(console, f"Options ({flags} NAME=VALUE)")
        _rows(console, options_of(OPTIONS[name]))
    elif name in OWN_NAMES:
        _print_program(console, name)
    else:
        console.print(SOMEBODYS_OWN.get(name, "It has no options."))


def options_of(kind: type) -> list[tuple[str, str, str]]:
    """(name, default, what it does) of every field of an options class, inherited ones first."""
    said: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        said |= _field_docs(base)
    return [(f.name, _value(f.default), said.get(f.name, "")) for f in fields(kind)]


def _field_docs(kind: type) -> dict[str, str]:
    """The string that stands below each field; Python keeps none of them at run time."""
    (body,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(body, ast.ClassDef)
    docs = {}
    for field, after in zip(body.body, body.body[1:], strict=False):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            docs[field.target.id] = " ".join(str(after.value.value).split())
    return docs


def _print_program(console: Console, name: str) -> None:
    console.print(f"Options (--engine-arg NAME=VALUE, --engine-config FILE): {OWN_NAMES[name]}.")
    _head(console, "Where you say nothing, its own defaults hold; those that move log-probs")
    on_cpu = ON_CPU[name]
    _rows(console, [(key, _value(value), "") for key, value in DEFAULTS[name].items()])
    _head(console, "On a CPU instead")
    _rows(console, [(key, _value(value), why) for key, (value, why) in on_cpu.items()])
    _head(console, "A second start, so that modules can be seen, where it is configured otherwise")
    _rows(console, [(key, _value(value), "") for key, value in HOOKABLE[name].items()])
    if name == "sglang":
        _head(console, "Options of ours")
        _rows(console, [(key, "false", does) for key, does in OF_SGLANG.items()])
        _sentence(console, "Need a GPU", sglang_options.NOT_ON_CPU)
    _sentence(console, "Set by MODEL, --dtype and the like, so never as options", SET_BY_US)
    _sentence(
        console,
        "Set in its environment, where you have not",
        (f"{key}={value}" for key, value in ENVIRONMENT[name].items()),
    )


def _value(value: object) -> str:
    """As it is typed after NAME=."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if value != "" else "(none)"


def _head(console: Console, text: str) -> None:
    console.print(Text(f"\n{text}", style="bold"))


def _sentence(console: Console, text: str, names: Iterable[str]) -> None:
    console.print(f"\n{text}: {', '.join(names)}.")


def _rows(console: Console, rows: Iterable[tuple[str, str, str]]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)
