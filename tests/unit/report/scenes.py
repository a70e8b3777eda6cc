"""Synthetic captures: what two sides recorded of the same random tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.captures.capture import Capture, Rows

WORDS = (
    "<|assistant|>", "Let", " me", " think", ".", "\n", " There", " are", " 3", " boxes", " with",
    " 12", " apples", " each", ",", " so", " we", " have", " 36", " in", " total", " minus", " 5",
    " that", " Ana", " ate", "\n\n", "####", " 31", "<|end|>", "\t", " café", " 北京",
    " 🍎", " שלום",
)  # fmt: skip
HOSTILE = (
    "</script><script>alert(1)</script>", "<img src=x onerror=alert(2)>", "\u202edesrever\u202c",
    "nul\x00byte", "{{ 7 * 7 }}", "'\"><svg onload=alert(3)>", "\u200bzero", "<!--", "&lt;b&gt;",
    "]]>", "\u2028line", "\x1b[31mred", "$\\frac{1}{2}$", "a" * 300,
)  # fmt: skip
VOCABULARY = 48
LAYERS, EXPERTS_PER_TOKEN, EXPERTS = 6, 2, 8


@dataclass(frozen=True)
class Scene:
    """What a synthetic run looks like; `noise` is the spread of delta in nats."""

    noise: float = 0.02
    bug: bool = False
    routers: bool = True
    rows: int = 24
    sampled: int = 96
    words: tuple[str, ...] = WORDS
    seed: int = 0


def captures(scene: Scene) -> dict[str, Capture]:
    """Both sides, the engine's re-scoring and the reference, on the same random tokens."""
    draw = np.random.default_rng(scene.seed)
    rows = _rows(scene, draw)
    n, at = rows.n_tokens, np.flatnonzero(rows.sampled)
    truth = np.log(draw.beta(3, 0.6, size=n))

    def noisy(scale: float) -> NDArray[np.float64]:
        # Rounding moves unlikely tokens more: the slope is what the figures must show.
        return truth + draw.laplace(0, scale, n) * (0.25 + 1.5 * (1 - np.exp(truth)))

    infer = noisy(scene.noise)
    train = noisy(scene.noise)
    if scene.bug:
        position = np.arange(n) - np.repeat(rows.row_offsets[:-1], np.diff(rows.row_offsets))
        position = position - np.repeat(rows.prompt_lengths, np.diff(rows.row_offsets))
        train -= draw.exponential(0.35, n) + 1.6 * np.exp(-np.maximum(position, 0) / 2.0)
    text = {i: scene.words[i % len(scene.words)] for i in range(VOCABULARY)}
    probes = np.sort(draw.choice(at, min(64, len(at)), replace=False))
    routers = _router_pair(draw, n) if scene.routers else (None, None)

    def capture(
        logp: NDArray[np.float64], probed: bool, router: NDArray[np.int16] | None
    ) -> Capture:
        logp = np.minimum(logp, -1e-7).astype(np.float32)
        logp = np.where(rows.sampled, logp, np.float32(np.nan))
        base = Capture(rows, logp, router_topk=router, token_text=text)
        if not probed:
            return base
        return replace(base, probe_positions=probes, probe_logp=_full(rows, logp, probes, draw))

    return {
        "decode": capture(infer, False, None),
        "prefill": capture(infer + draw.laplace(0, scene.noise / 3, n), True, routers[0]),
        "train": capture(train, True, routers[1]),
        "ref": capture(truth, False, None),
    }


def _rows(scene: Scene, draw: np.random.Generator) -> Rows:
    prompts = draw.integers(6, 30, scene.rows)
    sampled = draw.integers(max(scene.sampled // 2, 1), scene.sampled + 1, scene.rows)
    sampled[0] = scene.sampled
    ids = [
        draw.integers(0, VOCABULARY, p + s).tolist() for p, s in zip(prompts, sampled, strict=True)
    ]
    marks = [[False] * int(p) + [True] * int(s) for p, s in zip(prompts, sampled, strict=True)]
    return Rows.build(ids, [int(p) for p in prompts], marks)


def _full(
    rows: Rows, logp: NDArray[np.float32], probes: NDArray[np.int64], draw: np.random.Generator
) -> NDArray[np.float32]:
    """[P, V] log-probs whose sampled entry is the recorded one."""
    chosen = np.exp(logp[probes].astype(np.float64))
    others = draw.dirichlet(np.full(VOCABULARY - 1, 0.2), len(probes)) * (1 - chosen)[:, None]
    full = np.zeros((len(probes), VOCABULARY))
    for row, (token, rest) in enumerate(zip(rows.token_ids[probes], others, strict=True)):
        full[row] = np.insert(rest, token, chosen[row])
    return np.log(np.maximum(full, 1e-30)).astype(np.float32)


def _router_pair(draw: np.random.Generator, n: int) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    scores = draw.random((n, LAYERS, EXPERTS))
    depth = np.linspace(0.002, 0.02, LAYERS)[None, :, None]
    moved = scores + draw.normal(0, 1, scores.shape) * depth
    top = [
        np.argsort(-s, axis=-1)[..., :EXPERTS_PER_TOKEN].astype(np.int16) for s in (scores, moved)
    ]
    return top[0], top[1]
