"""What is told about one token on hover, focus or tap, as plain strings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.captures.capture import Capture
from mismatch_lab.measures.rows import IntArray
from mismatch_lab.report.numbers import number, percent, signed
from mismatch_lab.report.run_files import RunFiles
from mismatch_lab.report.tokens import TokenShelf

ALTERNATIVES = 5
FIELDS = (
    "row", "position", "token id", "logp_infer", "logp_train", "delta", "ratio",
    "probability (engine)", "probability (trainer)", "layers with flipped experts",
    "turn", "weights (engine)", "weights (trainer)", "in the loss",
)  # fmt: skip

Alternatives = list[tuple[str, str]]
"""(token text, probability), likeliest first."""


@dataclass(frozen=True)
class Detail:
    """One token: a value for each of FIELDS ("" for none), and both sides' favourites."""

    text: str
    values: list[str]
    infer: Alternatives
    train: Alternatives

    def packed(self) -> list[object]:
        """As the page's script reads it."""
        return [self.text, self.values, self.infer, self.train]


class DetailMaker:
    """Looks up everything known of a token in the captures of both sides."""

    def __init__(self, run: RunFiles, shelf: TokenShelf) -> None:
        assert run.infer_id is not None
        assert run.train_id is not None
        self.shelf = shelf
        self.infer, self.train = run.captures[run.infer_id], run.captures[run.train_id]
        engine_side = [self.infer]
        rescored = run.captures.get("prefill")
        if rescored is not None and rescored.rows.n_tokens == self.infer.rows.n_tokens:
            engine_side.append(rescored)
        self.probed = (_first_probed(engine_side), _first_probed([self.train]))
        self.routed = (_first_routed(engine_side), _first_routed([self.train]))

    def detail(self, flat: int) -> Detail:
        """Everything known of the sampled token at a flat index."""
        logp_infer, logp_train = float(self.infer.logp[flat]), float(self.train.logp[flat])
        delta = float(self.shelf.delta[flat])
        values = [
            str(self.shelf.row_of_token[flat]),
            str(self.shelf.position[flat]),
            str(self.infer.rows.token_ids[flat]),
            number(logp_infer, 4),
            number(logp_train, 4),
            signed(delta),
            number(float(np.exp(min(delta, 700.0)))),
            percent(float(np.exp(logp_infer))),
            percent(float(np.exp(logp_train))),
            self._flipped(flat),
            *self._told(flat),
        ]
        text = self.shelf.words(int(self.infer.rows.token_ids[flat]))
        infer, train = (self._alternatives(capture, flat) for capture in self.probed)
        return Detail(text, values, infer, train)

    def _told(self, flat: int) -> list[str]:
        """The turn, of a row with several, the weights of either side, and whether it counts."""
        shelf = self.shelf
        row = slice(*shelf.span(int(shelf.row_of_token[flat])))
        turn = str(shelf.turns[flat]) if shelf.turns[row].max() > 1 else ""
        weights = ["" if of is None else str(of[flat]) for of in shelf.versions]
        in_loss = "" if shelf.in_loss is None else "yes" if shelf.in_loss[flat] else "no"
        return [turn, *weights, in_loss]

    def _flipped(self, flat: int) -> str:
        infer, train = self.routed
        # Routing at t is the choice made where t is the input: it shapes token t + 1.
        if infer is None or train is None or flat == 0:
            return ""
        layers = flipped_layers(infer[flat - 1], train[flat - 1])
        return ", ".join(str(layer) for layer in layers) if len(layers) else "none"

    def _alternatives(self, capture: Capture | None, flat: int) -> Alternatives:
        if capture is None or capture.probe_logp is None:
            return []
        at = int(np.searchsorted(capture.probe_positions, flat))
        if at == len(capture.probe_positions) or capture.probe_positions[at] != flat:
            return []
        logp = np.nan_to_num(capture.probe_logp[at], nan=-np.inf)
        top = np.argsort(-logp, kind="stable")[:ALTERNATIVES]
        return [(self.shelf.words(int(i)), percent(float(np.exp(logp[i])))) for i in top]


def flipped_layers(infer: NDArray[np.int16], train: NDArray[np.int16]) -> IntArray:
    """Layers whose sets of experts differ, of two [L, K]; unrecorded layers do not count.

    Sides that choose other numbers of experts, K, choose other sets.
    """
    recorded = (infer >= 0).all(axis=-1) & (train >= 0).all(axis=-1)
    if infer.shape[-1] != train.shape[-1]:
        return np.flatnonzero(recorded)
    differs = (np.sort(infer, axis=-1) != np.sort(train, axis=-1)).any(axis=-1)
    return np.flatnonzero(recorded & differs)


def _first_probed(captures: list[Capture]) -> Capture | None:
    return next((c for c in captures if c.probe_logp is not None), None)


def _first_routed(captures: list[Capture]) -> NDArray[np.int16] | None:
    return next((c.router_topk for c in captures if c.router_topk is not None), None)
