"""Re-score given tokens with SGLang's prefill, and have the agent record what passes."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from mismatch_lab.captures.capture import Float32, Rows
from mismatch_lab.captures.token_axes import two_lengths
from mismatch_lab.engines.assemble import RowRecord, local_probes
from mismatch_lab.engines.base import Progress, ScoreRequest
from mismatch_lab.engines.sglang_process import SglangProcess
from mismatch_lab.errors import EngineError

SCORE = {"max_new_tokens": 0, "temperature": 1.0}
"""Of a request that scores its prompt: nothing is sampled."""


class PrefillScorer:
    """One sequence per forward where anything is hooked: a hook then sees just that sequence."""

    def __init__(
        self, process: SglangProcess, vocabulary: int, known: Collection[str] | None = None
    ) -> None:
        """Args: `known` are the names of transformers' parts of this model."""
        self.process = process
        self.last = vocabulary - 1
        self.known = None if known is None else list(known)
        self.not_recorded: dict[str, str] = {}
        """What was asked for -> why it could not be recorded."""

    def score(self, rows: Rows, request: ScoreRequest, progress: Progress) -> list[RowRecord]:
        """Records of all rows, in order."""
        ids = [rows.token_ids[a:b].tolist() for a, b in rows.spans()]
        whole = len(request.probe_positions) > 0 or request.draws
        hooked = bool(request.tap_rows) or request.routing or whole
        self.process.ask(
            "record",
            temperature=request.temperature,
            taps=bool(request.tap_rows),
            routing=request.routing,
            known=self.known,
        )
        try:
            if request.tap_rows:
                self._learn(max(ids, key=len))
            if hooked:
                return [self._row(rows, row, request, progress) for row in range(len(ids))]
            return self._together(ids, request.micro_batch or len(ids), progress)
        finally:
            self.process.ask("release")

    def _together(self, ids: list[list[int]], size: int, progress: Progress) -> list[RowRecord]:
        records: list[RowRecord] = []
        for start in range(0, len(ids), size):
            batch = ids[start : start + size]
            for row, answer in zip(batch, self._answers(batch), strict=True):
                records.append(RowRecord(prompt_logp(answer, row, self.last)))
            progress(len(records), len(ids))
        return records

    def _row(self, rows: Rows, row: int, request: ScoreRequest, progress: Progress) -> RowRecord:
        start, stop = int(rows.row_offsets[row]), int(rows.row_offsets[row + 1])
        ids = rows.token_ids[start:stop].tolist()
        probes = local_probes(rows, request.probe_positions, row)
        tapped = row in request.tap_rows
        self._recorder("start", tokens=len(ids), keep=probes - 1 if tapped else None)
        logp = prompt_logp(self._answers([ids])[0], ids, self.last)
        record, missing = self._recorder(
            "finish", rows=rows, row=row, probes=probes, draws=request.draws, taps=tapped
        )
        self.not_recorded |= missing
        record.logp = logp
        progress(row + 1, rows.n_rows)
        found: RowRecord = record
        return found

    def _learn(self, longest: list[int]) -> None:
        lengths = two_lengths(len(longest))
        for length in lengths:
            self._recorder("watch")
            self._answers([longest[:length]])
            self._recorder("watched")
        self.not_recorded |= self._recorder("learn", lengths=lengths)

    def _recorder(self, call: str, **arguments: Any) -> Any:
        return self.process.ask("recorder", call=call, **arguments)

    def _answers(self, batch: list[list[int]]) -> list[dict[str, Any]]:
        return self.process.generate(
            batch, sampling_params=SCORE, logprob_start_len=[0] * len(batch)
        )


def prompt_logp(answer: dict[str, Any], ids: list[int], last: int) -> Float32:
    """[n] log-probs of a prompt's own tokens; the first has none.

    Args: `last` is the last token of the model's vocabulary.

    Raises:
        EngineError: SGLang's answer is of other tokens, or has no number where one should be.
    """
    steps = answer["meta_info"].get("input_token_logprobs") or []
    scored = [int(step[1]) for step in steps]
    if len(scored) != len(ids):
        raise EngineError(f"SGLang scored {len(scored)} tokens, not the {len(ids)} it was given.")
    for at, (token, given) in enumerate(zip(scored, ids, strict=True)):
        # It writes 0 for the vocabulary's last token (scheduler_output_processor: its ids of images
        # lie above, and the bound is one too low); the log-prob is that of the token.
        if token != given and not (token == 0 and given >= last):
            raise EngineError(f"SGLang scored token {token} at place {at}, where {given} stood.")
    values = [np.nan if step[0] is None else step[0] for step in steps]
    logp = np.array(values, np.float32)
    if np.isnan(logp[1:]).any():
        raise EngineError("SGLang returned no log-prob for a token of a prompt.")
    logp[0] = np.nan
    return logp
