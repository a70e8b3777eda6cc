"""What a record says of itself, tokens without a log-prob, several runs: on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mismatch_lab.findings.odd_tokens import SIDES, WORDS
from mismatch_lab.findings.record import in_words
from mismatch_lab.report.numbers import ends, interval, number
from mismatch_lab.report.text import visible
from mismatch_lab.schema import Findings, OverRuns, RecordFindings

TOKENS_SHOWN = 5
"""Of each kind and capture; the report and the findings have more."""

EDGES = ("decode_train", "decode_prefill", "prefill_train", "infer_ref", "train_ref")


def print_odd_tokens(console: Console, findings: Findings) -> None:
    """Where they are and what either side says of them."""
    for odd in findings.odd_tokens:
        run = f", run {odd.run}" if odd.run > 1 else ""
        head = (
            f"{odd.n} of {odd.of} tokens: {WORDS[odd.kind]}, {SIDES[odd.side]} ({odd.capture}{run})"
        )
        console.print(Text(head, style="yellow"))
        table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2))
        for name in ("  row", "position", "token id", "engine", "trainer"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("text", overflow="fold")
        for token in odd.tokens[:TOKENS_SHOWN]:
            cells = (token.row, token.position, token.token_id)
            logp = (number(token.logp_infer), number(token.logp_train))
            table.add_row(*map(str, cells), *logp, Text(f"'{visible(token.text)}'"))
        console.print(table)
        left = odd.n - min(len(odd.tokens), TOKENS_SHOWN)
        if left:
            console.print(Text(f"  and {left} more; the report lists them", style="dim"))


def print_record(console: Console, record: RecordFindings) -> None:
    """What was left out and why, and mean |delta| by how old the engine's weights were."""
    for line in in_words(record):
        console.print(Text(f"  - {line}"), highlight=False)
    if len(record.lags) < 2:
        return
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2))
    for name in ("  versions behind", "rows", "mean |delta|", "95 % interval"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in record.lags:
        mean = one.abs_delta_mean
        table.add_row(str(one.lag), str(one.rows), number(mean.value), interval(mean))
    console.print(table)


def print_runs(console: Console, over: OverRuns) -> None:
    """Every run's numbers, and the interval over them."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2))
    edges = [edge for edge in EDGES if edge in over.edges]
    ratios = list(over.floor_ratios)
    table.add_column("run", no_wrap=True)
    table.add_column("status", no_wrap=True)
    for name in (*edges, *ratios):
        table.add_column(name, justify="right", overflow="fold")
    for run in over.runs:
        sizes = [run.edges.get(edge, {}).get("abs_delta_mean") for edge in edges]
        values = [*sizes, *(run.floor_ratios.get(name) for name in ratios)]
        cells = ["" if value is None else number(value) for value in values]
        table.add_row(str(run.run), run.status, *cells)
    means = [over.edges[edge]["abs_delta_mean"] for edge in edges]
    means += [over.floor_ratios[name] for name in ratios]
    table.add_row("mean", "", *(number(mean.value) for mean in means), style="bold")
    table.add_row("95 %", "", *(ends(*mean.ci95) for mean in means), style="bold")
    console.print(table)
