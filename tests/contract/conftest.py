"""Every engine's captures, made once a session by its worker process, as `diagnose` makes them.

An engine's task is one process with two stages: the stock engine, then the engine with a plugin
that changes one tensor. Its last job is a prompt that does not fit, with which the task must end.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))  # `serving` stands there

from serving import VLLM, started, vllm_command

from mismatch_lab.captures.capture import Capture, Rows
from mismatch_lab.captures.store import load_capture, save_capture
from mismatch_lab.engines.interpreters import interpreter
from mismatch_lab.engines.jobs import GenerateJob, Job, ScoreJob, Stage, WorkerTask
from mismatch_lab.engines.settings import HOOKABLE, PLAIN_VLLM
from mismatch_lab.errors import MismatchLabError
from mismatch_lab.executors.local import run_task
from mismatch_lab.mini import checkpoint_dir
from mismatch_lab.schema import CapturePlan, Manifest, Prompt, Sampling, SideSpec
from mismatch_lab.scorecard.architectures import make

CONTEXT = 1024
"""Of mini-gpt-oss, and of the fake engine."""
PRODUCTION = ("vllm", "sglang")
"""Engines that sample for RL: they neither replay, nor train, nor run another module."""
ONLY_SCORE = ("fsdp", "definition")
"""Engines that do not sample."""
ROUNDINGS = 16
"""How many roundings of the largest log-prob may add up in a log-prob: a few in each of four
layers. Threads and instruction sets order sums otherwise, which costs up to three."""
PLAN = CapturePlan(probe_positions=24, tap_rows=2, tap_tokens=48)
QUESTIONS = (
    "Tom has 3 apples and buys 4 more. How many apples does Tom have now?",
    "Carla has 12 flowers. She gives 5 of them to Ben. How many flowers does Carla have left?",
    "What is 7 plus 8?",
    "There are 6 boxes with 4 eggs each. How many eggs are there?",
)
"""Of different lengths, so that a micro-batch has to be padded."""
FOLLOW_UPS = ("He buys 2 more. And now?", "He eats one. And now?")
PROMPTS = [
    Prompt(id=f"p{i}", messages=[{"role": "user", "content": text}])
    for i, text in enumerate(QUESTIONS)
]
TALK = Prompt(id="talk", messages=PROMPTS[0].messages, follow_ups=list(FOLLOW_UPS))
TOO_LONG = Prompt(id="long", token_ids=[65] * 2000)

# In place, and the same for a torch module and for the fake's numpy model.
PLUGIN = """
def halve(model):
    for name, parameter in model.named_parameters():
        if name.startswith("model.layers.1.") and name.endswith("o_proj.weight"):
            parameter *= 0.5

def fail(model):
    raise KeyError("no such submodule")

def halved(model):
    import copy

    other = copy.deepcopy(model)
    halve(other)
    return other

def compiled(model):
    import torch

    halve(model)
    return torch.compile(model, backend="eager")

def wrapped(model):
    import torch

    return torch.nn.Sequential(model)

def number(model):
    return 3
"""


@dataclass(frozen=True)
class Recorded:
    """What one engine recorded."""

    engine: str
    folder: Path
    ended_with: MismatchLabError | None

    def capture(self, name: str) -> Capture:
        """A capture of this engine, or what it scored: one that cannot sample has that of hf."""
        return load_capture(self._path(name))[0]

    def manifest(self, name: str) -> Manifest:
        return load_capture(self._path(name))[1]

    def _path(self, name: str) -> Path:
        own = self.folder / f"{self.engine}-{name}"
        if self.engine in ONLY_SCORE and name.startswith("decode"):
            return self.folder / f"hf-{name}"
        if not own.is_dir():
            pytest.fail(f"{self.engine} made no {name}; it ended with: {self.ended_with}")
        return own


def make_spec(engine: str, model: str, **more: object) -> SideSpec:
    side = {"fsdp": "train", "hf": "ref"}.get(engine, "infer")
    own: dict[str, object] = {"python": interpreter(engine, None)} if engine == "sglang" else {}
    # vLLM's log-probs are of what was drawn from, as the other engines give them; and without a
    # prefix cache a seed repeats to the bit.
    plain = {"vllm": PLAIN_VLLM, "sglang": HOOKABLE["sglang"]}.get(engine)
    if plain is not None:
        given = more.pop("args", {})
        assert isinstance(given, dict)
        own["args"] = {**plain, **given}
    spec = SideSpec.model_validate(
        {"side": side, "engine": engine, "model": model, "dtype": "float32", **own, **more}
    )
    return spec.model_copy(update={"model": "fake"}) if engine == "fake" and not more else spec


def _sampling_jobs(engine: str) -> list[Job]:
    settings = {
        "decode": Sampling(max_tokens=16, seed=1),
        "decode-again": Sampling(max_tokens=16, seed=1),
        "decode-other-seed": Sampling(max_tokens=16, seed=2),
        "decode-cool": Sampling(max_tokens=16, seed=1, temperature=0.7),
        "decode-top-p": Sampling(max_tokens=16, seed=1, top_p=0.6),
    }
    return [
        GenerateJob(id=f"{engine}-{name}", prompts=[*PROMPTS, TALK], sampling=sampling)
        for name, sampling in settings.items()
    ]


def _scoring_jobs(engine: str, source: str) -> list[Job]:
    def score(name: str, of: str = "decode", **more: Any) -> ScoreJob:
        return ScoreJob.model_validate(
            {"id": f"{engine}-{name}", "source": f"{source}-{of}", "plan": PLAN, **more}
        )

    everything: dict[str, Any] = {"probes": True, "taps": True, "routing": True}
    jobs = [
        score("prefill", **everything, fingerprint=True),
        score("prefill-again", **everything),
        score("prefill-bare"),
        score("prefill-alone", micro_batch=1),
        score("prefill-cool", "decode-cool", probes=True, temperature=0.7),
        score("prefill-top-p", "decode-top-p"),
    ]
    if engine not in PRODUCTION:
        own = f"{engine}-prefill"
        jobs.append(score("replay", probes=True, taps=True, replay_from=own))
        jobs.append(score("prefill-train-mode", train_mode=True))
    elif engine == "vllm":
        on_hf = {"id": "vllm-on-hf", "source": "hf-decode", "plan": PLAN, **everything}
        jobs.append(ScoreJob.model_validate(on_hf))
    return list(jobs)


class Lab:
    """Runs each engine's worker once, and remembers how it went."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder = folder
        self.captures = folder / "captures"
        self.model = str(model)
        self.plugin = folder / "plugin.py"
        self.plugin.write_text(PLUGIN)
        save_capture(self.captures / "too-long", *_too_long())
        self.recorded = cache(self._record)
        self._qwen3_moe = cache(self._small_qwen3_moe)

    def model_of(self, engine: str) -> str:
        """The embedded model, a GPT-OSS; of SGLang, which runs none on a CPU, a Qwen3-MoE."""
        return str(self._qwen3_moe()) if engine == "sglang" else self.model

    def _small_qwen3_moe(self) -> Path:
        folder = self.folder / "qwen3-moe"
        make("qwen3_moe", folder)
        config = json.loads((folder / "config.json").read_text())
        config["max_position_embeddings"] = CONTEXT
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    def _record_server(self) -> Recorded:
        """A server of vLLM, started for these jobs; it shows no modules."""
        processed = ("--logprobs-mode", "processed_logprobs", "--generation-config", "vllm")
        command = vllm_command(Path(self.model), *processed)
        scored = ("http-prefill", "http-prefill-cool", "http-prefill-top-p")
        with started(command, self.folder / "server.log", **VLLM) as url:
            spec = make_spec("http", self.model, urls=(url,), args={"concurrency": 1})
            jobs = [job for job in _scoring_jobs("http", "http") if job.id in scored]
            return self.run("http", Stage(spec=spec, jobs=[*_sampling_jobs("http"), *jobs]))

    def _record(self, engine: str) -> Recorded:
        if engine == "http":
            return self._record_server()
        if engine in (*ONLY_SCORE, "vllm"):
            self.recorded("hf")  # they score its tokens
        source = "hf" if engine in ONLY_SCORE else engine
        spec = make_spec(engine, self.model_of(engine))
        changed = spec.model_copy(update={"plugin": f"{self.plugin}:halve"})
        clean = _sampling_jobs(engine) if engine not in ONLY_SCORE else []
        last: Job = ScoreJob(id=f"{engine}-long", source="too-long")
        if engine not in ONLY_SCORE:
            last = GenerateJob(
                id=f"{engine}-long", prompts=[PROMPTS[0], TOO_LONG], sampling=Sampling(max_tokens=5)
            )
        again = ScoreJob(id=f"{engine}-plugin", source=f"{source}-decode", fingerprint=True)
        returned = [
            Stage(
                spec=spec.model_copy(update={"plugin": f"{self.plugin}:{name}"}),
                jobs=[again.model_copy(update={"id": f"{engine}-{name}"})],
            )
            for name in {"vllm": [], "sglang": [], "fake": ["halved"]}.get(
                engine, ["halved", "compiled"]
            )
        ]
        return self.run(
            engine,
            Stage(spec=spec, jobs=clean + _scoring_jobs(engine, source)),
            *returned,
            Stage(spec=changed, jobs=[again, last]),
        )

    def run(self, name: str, *stages: Stage) -> Recorded:
        """Run a task of its own; how it ended is recorded, not raised."""
        task = WorkerTask(captures_dir=str(self.captures), stages=list(stages))
        ended_with = None
        try:
            run_task(task, name, self.folder / "logs", lambda event: None)
        except MismatchLabError as error:
            ended_with = error
        return Recorded(stages[0].spec.engine, self.captures, ended_with)


def _too_long() -> tuple[Capture, Manifest]:
    rows = Rows.build([[65] * 2000], [1999], [[False] * 1999 + [True]])
    manifest = Manifest(
        id="too-long", side="infer", engine="none", engine_version="", model="", dtype="float32",
        sampling=None, logprob_space="raw", patched=[], host="", packages={}, rows=1, tokens=2000,
        wall_s=0.0, arrays_sha256="",
    )  # fmt: skip
    return Capture(rows, np.full(2000, np.nan, np.float32)), manifest


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("contract"), checkpoint_dir())


REAL = (
    pytest.param("vllm", marks=pytest.mark.vllm),
    pytest.param("sglang", marks=pytest.mark.sglang),
)
SCORERS = ("fake", "hf", *ONLY_SCORE, *REAL)
TRAINERS = ("fake", "hf", *ONLY_SCORE)
SAMPLERS = ("fake", "hf", *REAL, pytest.param("http", marks=pytest.mark.vllm))


@pytest.fixture(scope="session", params=SCORERS)
def scorer(request: pytest.FixtureRequest, lab: Lab) -> Recorded:
    """An engine's captures; every engine scores."""
    return lab.recorded(str(request.param))


@pytest.fixture(scope="session", params=TRAINERS)
def trainer(request: pytest.FixtureRequest, lab: Lab) -> Recorded:
    """The captures of an engine that can train: it replays inputs and has a training mode."""
    return lab.recorded(str(request.param))


@pytest.fixture(scope="session", params=SAMPLERS)
def sampler(request: pytest.FixtureRequest, lab: Lab) -> Recorded:
    """The captures of an engine that samples."""
    return lab.recorded(str(request.param))


Of = Callable[[str], Recorded]


@pytest.fixture(scope="session")
def recorded(lab: Lab) -> Of:
    """Captures by the name of the engine."""
    return lab.recorded


@pytest.fixture(scope="session")
def rounding_nats() -> Callable[..., float]:
    """How far two computations of the same log-probs in float32 may be apart."""

    def bound(logp: NDArray[np.float32]) -> float:
        return float(ROUNDINGS * np.finfo(np.float32).eps * max(1, np.nanmax(np.abs(logp))))

    return bound
