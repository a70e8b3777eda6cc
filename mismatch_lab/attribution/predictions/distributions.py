"""Defects of what a log-prob means, and of which tokens it belongs to: temperature, truncation,
penalties, scales, padding, normalisers; shifts, and rows that see each other.
"""

from __future__ import annotations

from mismatch_lab.attribution.hypotheses import (
    Features,
    FreeNumber,
    Hypothesis,
    RowChange,
    Spans,
    TokenChange,
)
from mismatch_lab.schema import Alteration

FACTORS = (0.25, 0.5, 0.8, 0.95, 1.05, 1.25, 2.0, 4.0)
HEAD = "lm_head"
TENSOR_PARALLEL = (2, 4, 8)
"""Ranks that a vocabulary is sharded over."""
ADDED = (-2.0, -1.0, -0.5, -0.1, 0.05, 0.1, 0.5, 1.0, 1.5, 2.0)
"""Penalties that are subtracted; engines take negative ones too."""
SUPPRESSED = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Expected draws, none of which happened: by chance at e to the minus so many."""


def raw_temperature(features: Features) -> list[Hypothesis]:
    """The temperature is left out, or divides the wrong thing."""
    if features.sampling.temperature == 1.0:
        return []
    return [
        Hypothesis(
            "raw-logprobs-temperature",
            "log-probs of the logits as they are, not divided by the temperature",
            rows=(RowChange("raw_temperature"),),
        ),
        Hypothesis(
            "raw-logprobs-temperature",
            "the temperature divides log-probs, not logits",
            rows=(RowChange("temperature_on_logprobs"),),
        ),
    ]


def truncation(features: Features) -> list[Hypothesis]:
    """Renormalised over the tokens that top-p, top-k or min-p keep."""
    if features.suspect == "train":
        return []
    suppressed = Hypothesis(
        "sampler-truncation",
        "some tokens can never be sampled (banned words, a bias); expected so often",
        rows=(RowChange("never_drawn"),),
        search=FreeNumber(SUPPRESSED, "no"),
        fitted=1,
    )
    if not features.of_sampling:
        return [suppressed]
    declared = features.sampling.top_p
    if declared < 1:
        change = (RowChange("top_p", declared),)
        return [
            Hypothesis("sampler-truncation", f"renormalised over top-p {declared:g}", rows=change),
            suppressed,
        ]
    grids = {
        "top_p": FreeNumber((0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99), "linear"),
        "top_k": FreeNumber(
            (1, 2, 3, 4, 5, 6, 8, 10, 14, 20, 30, 45, 70, 110, 180, 300), "integer"
        ),
        "min_p": FreeNumber((0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8), "log"),
    }
    return [
        Hypothesis(
            "sampler-truncation",
            f"renormalised over what {name.replace('_', '-')} keeps",
            rows=(RowChange(name),),
            search=search,
            fitted=1,
        )
        for name, search in grids.items()
    ] + [suppressed]


def penalties(features: Features) -> list[Hypothesis]:
    """Tokens seen before are penalised."""
    if not features.of_sampling:
        return []
    grids = {
        "repetition_penalty": FreeNumber((0.8, 0.95, 1.02, 1.05, 1.1, 1.2, 1.5, 2.0), "log"),
        "presence_penalty": FreeNumber(ADDED, "linear"),
        "frequency_penalty": FreeNumber(ADDED, "linear"),
    }
    return [
        Hypothesis(
            "sampling-penalties",
            name.replace("_", " "),
            rows=(RowChange(name),),
            search=search,
            fitted=1,
        )
        for name, search in grids.items()
    ]


def logit_scale(features: Features) -> list[Hypothesis]:
    """All logits times one number."""
    return [
        Hypothesis(
            "logit-scale",
            "logits times a constant",
            rows=(RowChange("scale"),),
            search=FreeNumber(FACTORS, "log"),
            location=HEAD,
            fitted=1,
        )
    ]


def logit_softcap(features: Features) -> list[Hypothesis]:
    """The tanh cap on logits dropped, or one where none belongs."""
    cap = features.config.get("final_logit_softcapping")
    if cap:
        name = "final_softcap"
        dropped, other = Alteration(name=name, value=0.0), Alteration(name=name)
        grid = tuple(float(cap) * factor for factor in (0.5, 0.8, 1.25, 2.0, 4.0))
        return [
            Hypothesis(
                "logit-softcap",
                "the cap on the final logits is dropped",
                model=(dropped,),
                location=HEAD,
            ),
            Hypothesis(
                "logit-softcap",
                "another cap on the final logits",
                model=(other,),
                search=FreeNumber(grid, "log"),
                location=HEAD,
                fitted=1,
            ),
        ]
    return [
        Hypothesis(
            "logit-softcap",
            "a cap on the final logits that the model does not have",
            rows=(RowChange("softcap"),),
            search=FreeNumber((5.0, 10.0, 20.0, 30.0, 50.0), "log"),
            location=HEAD,
            fitted=1,
        )
    ]


def vocab_padding(features: Features) -> list[Hypothesis]:
    """Rows of the padded vocabulary in the normaliser."""
    return [
        Hypothesis(
            "vocab-padding",
            "logits of 0 for rows beyond the vocabulary in the normaliser",
            rows=(RowChange("phantom_rows"),),
            search=FreeNumber((1.0, 4.0, 16.0, 64.0, 256.0, 1024.0), "log"),
            location=HEAD,
            fitted=1,
        )
    ]


def partial_normaliser(features: Features) -> list[Hypothesis]:
    """The log-sum-exp over a vocabulary that is sharded over ranks, not summed over all of them."""
    if not features.raises_only:
        return []
    found = []
    for n in TENSOR_PARALLEL:
        for width in shard_widths(int(features.config.get("vocab_size") or 0), n):
            shards = tuple((width * k, width * (k + 1)) for k in range(n))
            ways: dict[str, tuple[Spans, ...]] = {"misses one": tuple((shard,) for shard in shards)}
            if n > 2:  # of two, each misses the other
                others = tuple(tuple(s for s in shards if s != shard) for shard in shards)
                ways["is over one alone"] = others
            found += [
                Hypothesis(
                    "partial-normaliser",
                    f"the log-sum-exp {way} of {n} shards of {width} tokens; its number",
                    rows=(RowChange("uncounted", choices=choices),),
                    search=FreeNumber(tuple(float(k) for k in range(n)), "no"),
                    location=HEAD,
                    fitted=1,
                )
                for way, choices in ways.items()
            ]
            found.append(
                Hypothesis(
                    "partial-normaliser",
                    f"each of {n} shards of {width} tokens is normalised by itself",
                    rows=(RowChange("own_shard", float(width)),),
                    location=HEAD,
                )
            )
    return found


def shard_widths(vocabulary: int, n: int) -> list[int]:
    """Tokens of one of n shards: as torch cuts, as vLLM pads (64) and as Megatron (128 a rank)."""
    blocks = (1, 64, 128 * n) if vocabulary else ()
    widths = sorted({-(-(-(-vocabulary // block) * block) // n) for block in blocks})
    return [width for width in widths if width * (n - 1) < vocabulary]  # no rank is left empty


def impossible(features: Features) -> list[Hypothesis]:
    """What a side that gives sampled tokens probability 0 takes out of its distributions."""
    if not features.impossible:
        return []
    grids = {
        "top_p": FreeNumber((0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99), "linear"),
        "top_k": FreeNumber(
            (1, 2, 3, 4, 5, 6, 8, 10, 14, 20, 30, 45, 70, 110, 180, 300), "integer"
        ),
        "min_p": FreeNumber((0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8), "log"),
    }
    found = [
        Hypothesis(
            "impossible-token",
            f"scored over what {name.replace('_', '-')} keeps",
            rows=(RowChange(name),),
            search=search,
            location=HEAD,
            fitted=1,
        )
        for name, search in grids.items()
    ]
    if features.masked:
        left_out = sum(stop - start for start, stop in features.masked)
        mask = Hypothesis(
            "impossible-token",
            f"{left_out} entries of the vocabulary are masked before the softmax",
            rows=(RowChange("masked", choices=(features.masked,)),),
            location=HEAD,
        )
        found.insert(0, mask)
    return found


def shift(features: Features) -> list[Hypothesis]:
    """Off by one, either way."""
    return [
        Hypothesis(
            "shift-by-one",
            "log-probs one place off",
            tokens=(TokenChange("shift"),),
            search=FreeNumber((-1.0, 1.0)),
        )
    ]


def packing(features: Features) -> list[Hypothesis]:
    """Sequences of a packed row without a wall between them."""
    if features.suspect != "train" or not features.packed:
        return []
    return [
        Hypothesis(
            "packing-leak",
            "packed rows see the rows before them, positions running on",
            packing="leaky",
        ),
        Hypothesis(
            "packing-leak",
            "packed rows see the rows before them, positions restarted",
            packing="leaky_restarted",
        ),
    ]


def candidate(features: Features) -> list[Hypothesis]:
    """The log-prob of another candidate than the sampled token was written down."""
    if features.suspect == "train":
        return []
    return [
        Hypothesis(
            "wrong-candidate",
            "the log-prob of the likeliest token beside the one that was sampled",
            rows=(RowChange("likeliest"),),
            replaces=True,
        )
    ]
