"""The formats: what makes such a dump, what it holds, what it cannot know, and what reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module

from mismatch_lab.errors import InputError, choices
from mismatch_lab.ingest.files import Names, Source
from mismatch_lab.ingest.rows import DumpRow, Reading

Read = Callable[[Source, Reading], Iterator[DumpRow]]

PLAIN = "--temperature 1 --top-p 1 --top-k 0 --min-p 0"
NO_SAMPLING = "how the engine sampled"
NO_VERSIONS = "weight versions"
SPOILT = "whether log_probs precede the update"


@dataclass(frozen=True)
class Format:
    """A kind of dump."""

    name: str
    about: str
    switch: str
    """What makes the framework write it."""
    files: str
    """Where they lie."""
    holds: str
    masks: str
    """Which masks there are, and where `generated` is from."""
    cannot_know: tuple[str, ...]
    usual: str
    """How it samples by default, as flags; empty where there is no such thing."""
    needs: str
    """Packages beyond a bare install."""
    module: str
    reader: str
    """What reads it, by its name in the module: a function, or a class of which one is made."""
    names: str = "NAMES"

    def find(self) -> tuple[Names, Read]:
        """How its files are named, and what reads one."""
        module = import_module(f"mismatch_lab.ingest.{self.module}")
        read = getattr(module, self.reader)
        return getattr(module, self.names), read() if isinstance(read, type) else read


_INFERRED = (
    "loss alone: generated are its tokens, and others where the engine's log-prob is not exactly 0"
)

_ALL = (
    Format(
        "nemo-rl",
        "NeMo-RL's train_data_step{N}.jsonl",
        "on by default, if not env.should_log_nemo_gym_responses",
        "{log_dir}/…/train_data_step{N}.jsonl",
        "token ids, both sides, mask of generated tokens, mask of dropped samples, step",
        "generated (token_loss_mask), loss (and sample_loss_mask)",
        (NO_SAMPLING, NO_VERSIONS),
        f"{PLAIN} --logprobs processed",
        "",
        "nemo_rl",
        "read",
    ),
    Format(
        "prime-rl",
        "prime-rl's token exports",
        "enable_token_export = true of the trainer",
        "{run}/token_exports/step_{S}/rank_{R}.jsonl, with STABLE beside them",
        "token ids, both sides, loss mask, step, how sequences were packed",
        _INFERRED,
        (NO_SAMPLING, NO_VERSIONS),
        f"{PLAIN} --logprobs processed",
        "",
        "prime_rl",
        "read",
    ),
    Format(
        "slime",
        "slime's training data",
        "--dump-details DIR, or --save-debug-train-data",
        "DIR/train_data/{id}.pt; DIR/rollout_data/{id}.pt for versions",
        "token ids, both sides, loss mask, rollout id, weight versions a generation call, experts "
        "that the engine chose",
        _INFERRED,
        (NO_SAMPLING, SPOILT),
        f"{PLAIN} --logprobs processed",
        "torch",
        "torch_dumps",
        "Reader",
    ),
    Format(
        "miles",
        "Miles' training data",
        "--dump-details DIR",
        "DIR/train_data/{id}_{rank}.pt",
        "token ids, both sides, loss mask, rollout id, weight versions a generation call, experts "
        "that the engine chose",
        _INFERRED,
        (NO_SAMPLING, SPOILT),
        f"{PLAIN} --logprobs processed",
        "torch",
        "torch_dumps",
        "Reader",
    ),
    Format(
        "skyrl",
        "SkyRL's training batches (a pickle)",
        "trainer.dump_data_batch=true",
        "{export_path}/dumped_data/global_step_{N}_training_input.pkl",
        "token ids, both sides, loss mask, step",
        _INFERRED,
        (NO_SAMPLING, NO_VERSIONS),
        f"{PLAIN} --logprobs raw",
        "torch, where log-probs are bfloat16",
        "skyrl",
        "read",
    ),
    Format(
        "csv",
        "a table with a line a token",
        "columns row, token_id, sampled, logp_infer, logp_train, loss, packed_rows",
        "one .csv",
        "what its columns are; also temperature, top_p, top_k, min_p, logprobs, one value each",
        "generated (sampled), loss where there is a column of that name",
        ("what is no column of it",),
        "",
        "pyarrow",
        "tables",
        "read_csv",
        "CSV_NAMES",
    ),
    Format(
        "parquet",
        "the same with a line a token, or a line a row",
        "the same columns; or lists token_ids, mask, logp_infer, logp_train",
        "one .parquet",
        "what its columns are, as csv",
        "generated (sampled or mask), loss where there is a column of that name",
        ("what is no column of it",),
        "",
        "pyarrow",
        "tables",
        "read_parquet",
        "PARQUET_NAMES",
    ),
)

FORMATS = {one.name: one for one in _ALL}
"""By name."""


def end_of_step(read: Read) -> None:
    """Tell a reader that keeps parts of a step that no file of it is left.

    Raises:
        InputError: something is missing.
    """
    if hasattr(read, "end_of_step"):
        read.end_of_step()


def find_format(name: str) -> Format:
    """The format of a name.

    Raises:
        InputError: there is none; says which come near.
    """
    if name not in FORMATS:
        raise InputError(f"Unknown format {name!r}.", choices(name, FORMATS))
    return FORMATS[name]
