"""A trainer of the user's own: `--trainer FILE.py:FUNC`, a function that scores token ids.

    def load(model: str, dtype: str, **options):        # FUNC; options are --trainer-arg
        ...                                             # load the checkpoint as your trainer does
        def score(ids, positions, documents, temperature):
            return logp                                 # [n] log-probs, from your trainer's code
        score.module = policy                           # optional: the torch module that is run
        return score

`score` gets sequences one after another, [n] int64 each: token ids, positions that count from 0 in
each sequence, and the number of the sequence that a token belongs to. It returns [n] log-probs of
the tokens given those before them in the same sequence, of logits over the temperature; what stands
at first tokens does not matter. With a `module`, hidden states are recorded while it scores.
`check_trainer` holds a function to this: call it in a test of your own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mismatch_lab.captures.capture import Capture, Float32, Int64, Rows
from mismatch_lab.captures.fingerprint import Fingerprint
from mismatch_lab.checkpoints.config import read_config
from mismatch_lab.engines.assemble import RowRecord, assemble, local_probes
from mismatch_lab.engines.base import Progress, ScoreRequest
from mismatch_lab.engines.plugin import load_plugin
from mismatch_lab.errors import EngineError, InputError, NotApplicableError
from mismatch_lab.schema import OptionValue, Prompt, Sampling, SideSpec

Score = Callable[[Int64, Int64, Int64, float], Any]

MICRO_BATCH = "micro_batch"
"""The one option that is not handed on: sequences that `score` gets at once."""
SEQUENCES = 4
"""Where that is not said: as the other trainers have it."""
ABOVE_ZERO_NATS = 1e-3
"""A log-prob may be above 0 by a rounding of it; what is further above is something else."""


class FunctionEngine:
    """Scores with what the user's function returns; it does not sample."""

    logprob_space = "processed"
    packs = False
    """Whether sequences of one call share a row of the model's batch, where that is known."""

    def __init__(self, spec: SideSpec) -> None:
        self.name = spec.program or spec.engine
        if spec.plugin or spec.stock or spec.resync or spec.no_dropout:
            raise NotApplicableError(f"{self.name} is run as it is, and not changed.")
        self.spec = spec
        self.version = Path(self.name.rpartition(":")[0]).name
        self.patched: list[str] = []
        given = dict(spec.args)
        self._sequences = int(given.pop(MICRO_BATCH, SEQUENCES))
        self.score_ids = self.load(given)
        self.module: Any = getattr(self.score_ids, "module", None)
        self.options: dict[str, OptionValue] = {**given, MICRO_BATCH: self._sequences}
        self.context_length = int(read_config(spec.model).get("max_position_embeddings") or 1 << 30)
        self._tap: Any = None

    def load(self, options: dict[str, OptionValue]) -> Score:
        """The function, with the checkpoint loaded."""
        assert self.spec.program is not None
        return loaded(self.spec.program, self.spec.model, self.spec.dtype, options)

    def generate(self, prompts: list[Prompt], sampling: Sampling, progress: Progress) -> Capture:
        """A function that scores does not sample."""
        raise InputError(f"{self.name} scores, it cannot sample.", "Use it as the --trainer.")

    def score(self, rows: Rows, request: ScoreRequest, progress: Progress) -> Capture:
        """See `Engine.score`.

        Raises:
            NotApplicableError: the function would have to be changed.
            EngineError: it returned no log-probs.
        """
        if request.alter or request.packing or request.train_mode:
            raise NotApplicableError(f"{self.name} is run as it is, and not changed.")
        if request.replay is not None:
            return self._replayed(rows, request)
        tapped = list(request.tap_rows) if self.module is not None else []
        size = request.micro_batch or self._sequences
        single = {*tapped, *request.alone_rows}
        others = [row for row in range(rows.n_rows) if row not in single]
        batches = [others[i : i + size] for i in range(0, len(others), size)]
        batches += [[row] for row in sorted(single - set(tapped))]
        records: dict[int, RowRecord] = {}
        for batch in batches:
            records |= self._records(rows, batch, request.temperature)
            progress(len(records), rows.n_rows)
        for row in tapped:
            records[row] = self._tapped(rows, row, request)
            progress(len(records), rows.n_rows)
        # Whole distributions are not asked of a function: nothing is recorded at probe positions
        # but hidden states.
        return self._with_order(
            assemble(rows, request, [records[row] for row in range(rows.n_rows)])
        )

    def _records(
        self, rows: Rows, batch: Sequence[int], temperature: float
    ) -> dict[int, RowRecord]:
        found = checked(self.score_ids, _ids(rows, batch), temperature, self.name)
        return {
            row: RowRecord(logp, pack=(batch[0], place) if self.packs else None)
            for place, (row, logp) in enumerate(zip(batch, found, strict=True))
        }

    def _tapped(self, rows: Rows, row: int, request: ScoreRequest) -> RowRecord:
        """One sequence with hooks on the module that is run."""
        import torch

        probes, (ids,) = local_probes(rows, request.probe_positions, row), _ids(rows, [row])
        tap = self._learned(ids, request.temperature)
        tap.start(len(ids), torch.from_numpy(probes - 1))
        with tap.attached():
            record = self._records(rows, [row], request.temperature)[row]
        record.hidden = {name: t.numpy() for name, t in tap.recorded().items()}
        return record

    def _replayed(self, rows: Rows, request: ScoreRequest) -> Capture:
        """The module's parts fed what another side's were fed; nothing, without a module."""
        import torch

        from mismatch_lab.engines.torch_replay import replayed

        records = []
        for row, (start, stop) in enumerate(_spans(rows, range(rows.n_rows))):
            record = RowRecord(np.full(stop - start, np.nan, np.float32))
            records.append(record)
            if self.module is None or request.replay is None or row not in request.tap_rows:
                continue
            probes = request.probe_positions
            inside = (probes >= start) & (probes < stop)
            ids = rows.token_ids[start : start + int(inside.sum())].astype(np.int64)
            given = {n: torch.from_numpy(a[inside].copy()) for n, a in request.replay.items()}
            tap = self._learned(ids, request.temperature)
            with tap.attached():
                forward = partial(self.score_ids, *laid_out([ids]), request.temperature)
                replayed(tap, forward, given, torch.arange(len(ids)), record)
        return self._with_order(assemble(rows, request, records))

    def _learned(self, ids: Int64, temperature: float) -> Any:
        """Hooks of the module, which know its token axes."""
        from mismatch_lab.captures.structure import named_parts
        from mismatch_lab.captures.taps import Tap

        if self._tap is None:
            self._tap = Tap(named_parts(self.module))
            with self._tap.attached():
                self._tap.axes.learn(
                    len(ids), lambda n: self.score_ids(*laid_out([ids[:n]]), temperature)
                )
        return self._tap

    def _with_order(self, found: Capture) -> Capture:
        if self._tap is None or not found.hidden:
            return found
        return replace(found, tap_order=tuple(self._tap.order), not_recorded=self._tap.unclear())

    def fingerprint(self) -> dict[str, Fingerprint]:
        """See `Engine.fingerprint`; of a function without a module nothing is known."""
        if self.module is None:
            return {}
        from mismatch_lab.checkpoints.fingerprint import fingerprint_tensors

        return fingerprint_tensors(self.module.state_dict().items())

    def close(self) -> None:
        """Let go of the function, and of what it holds."""
        del self.score_ids, self.module


def loaded(program: str, model: str, dtype: str, options: dict[str, OptionValue]) -> Score:
    """What `FILE.py:FUNC` returns for a checkpoint.

    Raises:
        InputError: no such function, it takes no such option, it raised, or it returned something
            that cannot be called.
    """
    load: Callable[..., Any] = load_plugin(program)
    try:
        inspect.signature(load).bind(model, dtype, **options)
    except TypeError as error:
        raise InputError(
            f"{program} cannot be called with (model, dtype{', …' if options else ''}): {error}.",
            "Options are what --trainer-arg says; FUNC names those that it takes.",
        ) from error
    try:
        score = load(model, dtype, **options)
    except Exception as error:
        raise InputError(f"{program} raised {type(error).__name__}: {error}.") from error
    if not callable(score):
        raise InputError(
            f"{program} returned a {type(score).__name__}.",
            "Return the function that scores: (ids, positions, documents, temperature) -> logp.",
        )
    return score  # type: ignore[no-any-return]


def laid_out(sequences: Sequence[Int64]) -> tuple[Int64, Int64, Int64]:
    """(ids, positions, documents) of sequences one after another, [n] each."""
    lengths = [len(sequence) for sequence in sequences]
    positions = np.concatenate([np.arange(n, dtype=np.int64) for n in lengths])
    documents = np.repeat(np.arange(len(lengths), dtype=np.int64), lengths)
    return np.concatenate(list(sequences)), positions, documents


def checked(
    score: Score, sequences: Sequence[Int64], temperature: float, program: str
) -> list[Float32]:
    """Log-probs of each sequence, [n] each, NaN at its first token.

    Raises:
        EngineError: the function raised, or returned something else than log-probs of the tokens.
    """
    ids, positions, documents = laid_out(sequences)
    try:
        returned = score(ids, positions, documents, temperature)
    except Exception as error:
        raise EngineError(f"{program} raised {type(error).__name__}: {error}") from error
    if hasattr(returned, "detach"):  # a tensor, of any device and type
        returned = returned.detach().float().cpu().numpy()
    logp = np.array(returned, dtype=np.float32).reshape(np.shape(returned))
    if logp.shape != ids.shape:
        raise EngineError(
            f"{program} returned {list(logp.shape)} for {len(ids)} tokens.",
            "One log-prob a token, in the order of the tokens.",
        )
    logp[positions == 0] = np.nan
    high = np.flatnonzero(logp > ABOVE_ZERO_NATS)
    if len(high):
        raise EngineError(
            f"{program} returned {logp[high[0]]:.4g} for token {high[0]}: no log-prob is above 0.",
            "Return log-probs, not probabilities, losses or logits.",
        )
    return [logp[documents == number] for number in range(len(sequences))]


def _ids(rows: Rows, batch: Sequence[int]) -> list[Int64]:
    return [rows.token_ids[a:b].astype(np.int64) for a, b in _spans(rows, batch)]


def _spans(rows: Rows, batch: Sequence[int]) -> list[tuple[int, int]]:
    return [(int(rows.row_offsets[row]), int(rows.row_offsets[row + 1])) for row in batch]


TOLERANCE_NATS = {"float32": 1e-3, "float16": 0.05, "bfloat16": 0.1}
"""mean |difference| that a dtype makes where a computation is laid out otherwise; each mistake that
is looked for makes more. float32 leaves 1e-6 of log-probs of some ten nats, bfloat16 some 1e-2."""
FLAT = 1e4
"""Temperature at which no token is likelier than another: logits differ by some tens."""


def check_trainer(program: str, model: str, dtype: str = "float32", **options: OptionValue) -> None:
    """Hold `FILE.py:FUNC` to what a trainer must do; for a test in your own repository.

    Args:
        program: `FILE.py:FUNC`.
        model: a checkpoint folder; a small one will do.
        dtype: that it is loaded in.
        options: as `--trainer-arg` gives them.

    Raises:
        InputError: it cannot be loaded.
        EngineError: it breaks the contract; the message says what was seen.
    """
    score = loaded(program, model, dtype, options)
    limit, vocabulary = TOLERANCE_NATS[dtype], int(read_config(model)["vocab_size"])
    draw = np.random.default_rng(0)
    one, two = (draw.integers(1, vocabulary, size=n, dtype=np.int64) for n in (13, 9))

    def scored(*sequences: Int64, temperature: float = 1.0) -> list[Float32]:
        return checked(score, sequences, temperature, program)

    def hold(seen: Float32, expected: Float32, what: str) -> None:
        apart = float(np.abs(seen.astype(np.float64) - expected)[1:].mean())
        if not apart <= limit:
            raise EngineError(f"{program}: {what} (mean |difference| {apart:.3g} nats).")

    (alone,) = scored(one)
    if not np.isfinite(alone[1:]).all():
        raise EngineError(f"{program} returned no number for some token after the first.")
    hold(scored(one)[0], alone, "the same sequence scored twice differs")
    other = one.copy()
    other[-1] = one[-1] % (vocabulary - 1) + 1
    (changed,) = scored(other)
    hold(
        changed[:-1], alone[:-1],
        "another last token changes log-probs before it: is number t that of token t + 1?",
    )  # fmt: skip
    if abs(float(changed[-1] - alone[-1])) == 0.0:
        raise EngineError(f"{program}: another last token has the log-prob of the first one.")
    hold(scored(two, one)[1], alone, "a sequence sees the one before it in the same call")
    hold(scored(one, two)[0], alone, "a sequence sees the one after it in the same call")
    (flat,) = scored(one, temperature=FLAT)
    hold(flat, np.full_like(flat, flat[1]), f"at temperature {FLAT:g} not all tokens are alike")
