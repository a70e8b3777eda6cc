"""`--help` of a command: options under headings, examples at the end; and the options of several.

Plain text, and quick.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperOption

DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")]
ArgsOption = list[str]

PromptsOption = partial(typer.Option, rich_help_panel="Prompts and sampling")
RecordOption = partial(typer.Option, rich_help_panel="A record, in place of both sides")
EngineOption = partial(typer.Option, rich_help_panel="The engine, which samples")
TrainerOption = partial(typer.Option, rich_help_panel="The trainer")
EffortOption = partial(typer.Option, rich_help_panel="How much is measured")
JudgedOption = partial(typer.Option, rich_help_panel="What is judged")
RulesOption = partial(typer.Option, rich_help_panel="Rules and baseline")
CasesOption = partial(typer.Option, rich_help_panel="Which cases")

OTHERS = "Output and errors"
"""Heading of options that name no group."""


def examples(*commands: str) -> str:
    """The text after the options: a command a line, whole as somebody would type it."""
    return "\n".join(f"mismatch-lab {command}" for command in commands)


class GroupedCommand(TyperCommand):
    """A command whose `--help` has its options in groups and its examples as they stand."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments first, then the groups in the order of their first option."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            line = param.get_help_record(ctx)
            if line is None:
                continue
            heading = "Arguments"
            if param.param_type_name == "option":
                panel = param.rich_help_panel if isinstance(param, TyperOption) else None
                heading = panel or OTHERS
            groups.setdefault(heading, []).append(line)
        for heading in sorted(groups, key=OTHERS.__eq__):
            with formatter.section(heading):
                formatter.write_dl(groups[heading])

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Examples, which must not be wrapped: they are to be copied."""
        if self.epilog:
            with formatter.section("Examples"):
                for line in self.epilog.splitlines():
                    formatter.write(f"{'':>{formatter.current_indent}}{line}\n")
