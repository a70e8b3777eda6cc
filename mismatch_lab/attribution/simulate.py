"""What a sound program would say if a hypothesis held, token by token."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mismatch_lab.attribution.hypotheses import Explanation, Hypothesis
from mismatch_lab.attribution.lab import Lab
from mismatch_lab.attribution.row_changes import change_rows, distributions_of
from mismatch_lab.attribution.token_changes import TOKEN_CHANGES, Float64
from mismatch_lab.captures.capture import Capture, Int64


@dataclass(frozen=True)
class Prediction:
    """Log-probs of sampled tokens under an explanation."""

    flat: Int64
    """[N] flat token indices, ascending."""
    logp: Float64
    """[N]; NaN where the explanation says nothing."""


class World:
    """A sound program to change: the reference in the lab, or a capture of the suspect's own."""

    def __init__(
        self,
        lab: Lab,
        own: Capture | None,
        temperature: float,
        first_rows: int | None = None,
    ) -> None:
        """Args:
        lab: the reference.
        own: the suspect's own sound capture, if it is held against that and not against the
            reference. What an altered model would change is then carried over from the lab.
        temperature: of the run.
        first_rows: only these.
        """
        self.lab = lab
        self.own = own
        self.temperature = temperature
        self.first_rows = first_rows

    def small(self, first_rows: int) -> World:
        """The same on the first rows only, for exploring."""
        return World(self.lab, self.own, self.temperature, first_rows)

    def predict(self, explanation: Explanation) -> Prediction | None:
        """None where the model has no part that the explanation changes.

        Raises:
            OutOfTimeError: the experiment is not paid for by the budget.
        """
        base = self._base(explanation)
        if base is None:
            return None
        logp = base.logp.astype(np.float64)
        flat = np.flatnonzero(base.rows.sampled)
        row_changes = [change for h in explanation for change in h.rows]
        if row_changes:
            if base.probe_logp is None or any(h.tokens for h in explanation if not _local(h)):
                return None
            probes = np.flatnonzero(base.rows.sampled[base.probe_positions])
            flat = base.probe_positions[probes]
            sound = distributions_of(base, probes, self.temperature)
            for change in row_changes:
                changed = change_rows(sound, change)
                sound = replace(sound, logp=changed)
            logp = np.full(len(logp), np.nan)
            logp[flat] = sound.logp[np.arange(len(flat)), base.rows.token_ids[flat]]
        for hypothesis in explanation:
            for token_change in hypothesis.tokens:
                change_tokens = TOKEN_CHANGES[token_change.name]
                logp = change_tokens(logp, base.rows, token_change.value)
        return Prediction(flat, logp[flat])

    def _base(self, explanation: Explanation) -> Capture | None:
        alterations = tuple(a for h in explanation for a in h.model)
        packing = next((h.packing for h in explanation if h.packing), None)
        if self.own is None:
            return self.lab.score(alterations, packing, self.first_rows)
        if not alterations and packing is None:
            return self.own
        plain = self.lab.score((), None, self.first_rows)
        changed = self.lab.score(alterations, packing, self.first_rows)
        if plain is None or changed is None:
            return None
        carried = self.own.logp[: len(plain.logp)] + (changed.logp - plain.logp)
        return replace(changed, logp=carried, probe_logp=None, probe_lse=None)


def _local(hypothesis: Hypothesis) -> bool:
    """Whether its token changes look at one token at a time."""
    names = {change.name for change in hypothesis.tokens}
    return "shift" not in names
