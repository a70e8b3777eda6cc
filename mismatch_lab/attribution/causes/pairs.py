"""What tells a cause from those it is easily taken for, pair by pair."""

from __future__ import annotations

_PAIRS: dict[tuple[str, str], str] = {
    ("adapter-not-delivered", "stale-tensor"): (
        "A missing adapter has low rank and lies in the adapter's target modules only; the engine "
        "then agrees with the initial policy, whatever the step."
    ),
    ("adapter-not-delivered", "stale-weights"): (
        "Change the sync interval: staleness follows it, an adapter that never arrives does not. A "
        "late engine agrees with an earlier step, this one with the initial policy."
    ),
    ("attention-scale", "attention-sinks-dropped"): (
        "The first token: without sinks it is wrong, another scale leaves it exact, because there "
        "is one key."
    ),
    ("attention-scale", "attention-softcap"): (
        "Large scores: a missing cap changes those alone, another scale all of them. The simulated "
        "cause that fits every token decides."
    ),
    ("attention-scale", "rope-scaling"): (
        "YaRN's and LongRoPE's attention factor is a scale too, and where whole heads turn only an "
        "experiment on the side tells them apart: attention or the rotary embedding put back. "
        "Without such a factor it is the scores."
    ),
    ("attention-sinks-dropped", "attention-softcap"): (
        "The first token: without sinks it is wrong, a missing cap leaves it exact, because there "
        "is one key."
    ),
    ("attention-sinks-dropped", "rope-scaling"): (
        "The first token: without sinks it is wrong, rotary scaling leaves it exact."
    ),
    ("attention-sinks-dropped", "sliding-window"): (
        "Without sinks all tokens are wrong from the first on; a window leaves everything before "
        "its width exact."
    ),
    ("attention-softcap", "logit-softcap"): (
        "Hidden states: a missing attention cap changes them from the first layer on, a missing "
        "logit cap changes none."
    ),
    ("attention-softcap", "rope-scaling"): (
        "Scaling changes rotated queries and keys, a missing cap leaves them alone and changes "
        "scores only. The simulated cause that fits every token decides."
    ),
    ("batch-variance", "dropout-active"): (
        "Repeat the same batch: with dropout it differs, with batch variance it is bit-identical."
    ),
    ("batch-variance", "numerics-floor"): (
        "Change the micro-batch: with batch variance the trainer then disagrees with itself, with "
        "plain rounding it does not."
    ),
    ("batch-variance", "packing-leak"): (
        "A leak is far above rounding and stays in float32; the first sequence of each pack is "
        "exact."
    ),
    ("batch-variance", "routing-two-pass"): (
        "Look at the experts: if tokens that differ are those whose experts flipped between the "
        "passes, it is the routing."
    ),
    ("decode-prefill-divergence", "kv-cache-quantisation"): (
        "Sample with kv_cache_dtype=auto: the quantised cache is then innocent if the difference "
        "stays."
    ),
    ("decode-prefill-divergence", "sliding-window"): (
        "The engine's own prefill: a wrong window of the model is wrong there too. Where decode "
        "alone is wrong, even from the window's width on, it is the decode kernel."
    ),
    ("decode-prefill-divergence", "stale-graph"): (
        "Before any weight update a graph cannot be stale; enforce_eager tells them apart "
        "afterwards."
    ),
    ("decode-prefill-divergence", "stale-prefix-cache"): (
        "A stale cache needs a weight update and a cache hit; a decode defect needs neither."
    ),
    ("dropout-active", "routing-two-pass"): (
        "Repeat the same pass with the same shapes: with dropout it differs, with routing it is "
        "identical."
    ),
    ("expert-bias", "expert-layout"): (
        "Without biases the MoE output stays close to the right one; with a wrong layout it has "
        "nothing to do with it."
    ),
    ("expert-bias", "router-bias"): (
        "The router's bias changes which experts are chosen in the first MoE layer; the experts' "
        "biases do not."
    ),
    ("expert-bias", "router-renormalisation"): (
        "Renormalisation scales the MoE output and keeps its direction; missing biases shift it."
    ),
    ("expert-bias", "stale-tensor"): (
        "Missing biases are there at step 0; a stale tensor needs an update."
    ),
    ("expert-layout", "router-renormalisation"): (
        "Renormalisation keeps the direction of the MoE output; a wrong layout does not."
    ),
    ("expert-layout", "stale-tensor"): (
        "A wrong layout is there at step 0 and catastrophic; a stale tensor starts at nothing and "
        "grows."
    ),
    ("expert-layout", "weight-quantisation"): (
        "Quantisation leaves every module close to the right one, attention included; a wrong "
        "layout ruins the experts and nothing before them."
    ),
    ("impossible-token", "missing-logprobs"): (
        "Minus infinity says that a token cannot be drawn, NaN says nothing."
    ),
    ("impossible-token", "sampler-truncation"): (
        "Who has the zeros: truncation leaves them at tokens that were not sampled, here sampled "
        "tokens have them on the side that did not draw."
    ),
    ("kv-cache-quantisation", "rope-precision"): (
        "decode_prefill: a quantised cache shows there, rotary frequencies are wrong in prefill "
        "too and grow with position."
    ),
    ("kv-cache-quantisation", "sliding-window"): (
        "A window error is exactly zero before the window's width; a quantised cache is not."
    ),
    ("kv-cache-quantisation", "stale-graph"): (
        "A quantised cache is there at step 0; a stale graph needs a weight update."
    ),
    ("kv-cache-quantisation", "stale-prefix-cache"): (
        "A quantised cache is there at step 0, in every request; a stale prefix needs an update "
        "and a cache hit."
    ),
    ("kv-cache-quantisation", "weight-quantisation"): (
        "decode_prefill: quantised weights are wrong in prefill as well, a quantised cache mostly "
        "in decode."
    ),
    ("lm-head-precision", "logprob-precision"): (
        "The grid: a rounded head puts logits on it and gives errors of one size; rounded "
        "log-probs lie on it themselves, with errors that grow with |log-prob|."
    ),
    ("lm-head-precision", "norm-precision"): (
        "Hidden states: a head leaves them alone, norms change them from the first layer on."
    ),
    ("lm-head-precision", "numerics-floor"): (
        "Put the head of both sides in float32: a one-sided head disappears, the floor only "
        "shrinks."
    ),
    ("lm-head-precision", "stale-tensor"): (
        "A low-precision head is there at step 0 with mean zero; an old head starts at nothing and "
        "depends on the token id."
    ),
    ("lm-head-precision", "untied-head"): (
        "A low-precision head is there at step 0 with mean zero; an untied head grows with "
        "training and depends on the token id."
    ),
    ("logit-scale", "logit-softcap"): (
        "A single scalar fits all tokens for a scale; only the tanh fits for a cap. Small logits "
        "cannot tell: use confident tokens."
    ),
    ("logit-scale", "partial-normaliser"): (
        "A scale makes some tokens likelier and others less likely; a normaliser that misses a "
        "part makes none less likely."
    ),
    ("logit-scale", "raw-logprobs-temperature"): (
        "Sample at temperature 1: a temperature disappears, a scale stays. Where T equals the "
        "model's constant, nothing else decides."
    ),
    ("logit-scale", "vocab-padding"): (
        "A scale leaves probabilities summing to 1 over the true vocabulary; padding takes the "
        "same share from all tokens of a position."
    ),
    ("logit-softcap", "raw-logprobs-temperature"): (
        "Sample at temperature 1: a temperature disappears, a missing cap stays. A scalar fits the "
        "former only."
    ),
    ("logprob-precision", "numerics-floor"): (
        "Rounded log-probs lie on the grid of the low precision; those of the floor do not."
    ),
    ("logprob-precision", "sentinel-values"): (
        "Rounding gives many different values near the right ones; a placeholder is one number, "
        "far off."
    ),
    ("missing-logprobs", "sentinel-values"): (
        "NaN is missing by its own account; a placeholder passes for a log-prob."
    ),
    ("norm-precision", "numerics-floor"): (
        "Isolated errors: norms alone stand out, or nothing does. Where nothing does, it is the "
        "floor."
    ),
    ("norm-precision", "tf32-products"): (
        "Isolated errors: one leaves norms exact and has attention, experts or projections stand "
        "out; the other the reverse."
    ),
    ("numerics-floor", "rope-precision"): (
        "The floor hardly depends on position; rounded frequencies grow in proportion to it and "
        "are nothing at position 0."
    ),
    ("numerics-floor", "routing-flips"): (
        "Split tokens by flip: with routing flips the unflipped ones are far below the flipped "
        "ones."
    ),
    ("numerics-floor", "tf32-products"): (
        "The floor of float32 is hundreds of times below what TF32 does; that of bfloat16 is "
        "higher, and hides it."
    ),
    ("numerics-floor", "unlisted"): (
        "Rounding is everywhere and of the floor's size; a defect begins in one module, and that "
        "module leaves its floor on equal inputs."
    ),
    ("packing-boundary", "packing-leak"): (
        "A boundary error hits the last token of a sequence only; a leak hits the first tokens "
        "most, and all that follow."
    ),
    ("packing-boundary", "shift-by-one"): (
        "A shift hits every token, a boundary error one per sequence."
    ),
    ("packing-boundary", "terminal-token"): (
        "Score one sequence per forward: the boundary error goes away, a missing end token stays "
        "and is one constant."
    ),
    ("packing-leak", "stale-prefix-cache"): (
        "A leak is in the trainer and changes with its micro-batch; a stale prefix is in the "
        "engine and needs a weight update."
    ),
    ("partial-normaliser", "sampler-truncation"): (
        "Add up the wrong side's probabilities: truncation leaves a sum of one and entries of "
        "probability zero, a partial normaliser a sum above one and no such entry."
    ),
    ("partial-normaliser", "vocab-padding"): (
        "The sign: padding makes every token less likely, a missing part every token likelier."
    ),
    ("prompt-template", "retokenisation"): (
        "Compare ids: with a template the prompts differ and responses agree, with retokenisation "
        "the response's own ids differ."
    ),
    ("prompt-template", "stale-prefix-cache"): "Compare prompt ids: with a stale cache they agree.",
    ("raw-logprobs-temperature", "sampler-truncation"): (
        "Truncation gives tokens of probability zero and differences of one sign; a temperature "
        "gives both signs and no zeros."
    ),
    ("raw-logprobs-temperature", "sampling-penalties"): (
        "One scalar fits all tokens for a temperature; penalties depend on which tokens came "
        "before."
    ),
    ("retokenisation", "shift-by-one"): (
        "Compare ids: with a shift they agree, and moving one side by one position mends "
        "everything."
    ),
    ("retokenisation", "stale-prefix-cache"): "Compare ids: with a stale cache they agree.",
    ("rope-precision", "rope-scaling"): (
        "Norms of rotated queries and keys agree with rounded frequencies and differ by a constant "
        "with a wrong attention factor."
    ),
    ("rope-precision", "rope-theta"): (
        "Rounded frequencies start tiny and grow in proportion to position; another base is large "
        "early and levels off."
    ),
    ("rope-precision", "sliding-window"): (
        "A window leaves everything before its width exact; rounded frequencies grow from position "
        "1 on."
    ),
    ("rope-scaling", "rope-theta"): (
        "A wrong factor changes norms and keeps angles; a wrong base does the reverse. Where "
        "scaling is missing altogether, the simulated cause that fits every token decides."
    ),
    ("rope-scaling", "sliding-window"): (
        "A window leaves everything before its width exact; scaling is wrong from position 1 on, "
        "in every layer that is scaled."
    ),
    ("rope-theta", "sliding-window"): (
        "A window leaves everything before its width exact; another base is wrong from position 1 "
        "on."
    ),
    ("router-bias", "router-precision"): (
        "A bias favours some experts over others; precision flips near-ties both ways."
    ),
    ("router-bias", "router-renormalisation"): (
        "A bias changes which experts are chosen; renormalisation changes only how much they count."
    ),
    ("router-bias", "routing-flips"): (
        "A bias favours some experts over others; flips by rounding have no direction and sit on "
        "near-ties."
    ),
    ("router-bias", "stale-tensor"): (
        "Fingerprints: if the bias is the tensor that is old, both names are right. A bias that is "
        "missing is there at step 0."
    ),
    ("router-precision", "routing-flips"): (
        "Put the router in float32 on both sides: a router's own precision is then gone, flips "
        "from the layers before it remain."
    ),
    ("router-precision", "routing-two-pass"): (
        "If the trainer disagrees with itself it is the two passes; a low-precision router is the "
        "same in both."
    ),
    ("routing-flips", "routing-two-pass"): (
        "If the trainer disagrees with itself it is the two passes; flips between engine and "
        "trainer leave it consistent."
    ),
    ("sampler-truncation", "sampling-penalties"): (
        "Truncation gives tokens of probability zero and ignores history; penalties depend on "
        "which tokens came before."
    ),
    ("sampler-truncation", "vocab-padding"): (
        "Truncation makes the engine likelier and some tokens impossible; padding makes the wrong "
        "side less likely everywhere and keeps all tokens."
    ),
    ("sentinel-values", "terminal-token"): (
        "A terminal token is wrong only at the end of sequences; placeholders turn up anywhere."
    ),
    ("shift-by-one", "terminal-token"): "A shift hits every token, a terminal token the last one.",
    ("stale-graph", "stale-prefix-cache"): (
        "Sample without prefix caching, then with enforce_eager: each acquits one. A stale graph "
        "hits all requests, a stale prefix only cache hits."
    ),
    ("stale-graph", "stale-tensor"): (
        "The engine's own prefill: with a stale graph it is right, with a stale tensor it is as "
        "wrong as decode."
    ),
    ("stale-prefix-cache", "stale-tensor"): (
        "The engine's own prefill without a cache: with a stale prefix it is right, with a stale "
        "tensor it is wrong."
    ),
    ("stale-prefix-cache", "stale-weights"): (
        "Fingerprints: with a stale prefix they agree, with stale weights they all differ."
    ),
    ("stale-tensor", "stale-weights"): "How many fingerprints differ: some, or all.",
    ("stale-tensor", "untied-head"): (
        "An untied head is a stale head whose reason is the config: if tie_word_embeddings differs "
        "between the sides, it is the tie."
    ),
    ("stale-weights", "weight-quantisation"): (
        "Quantised weights are wrong at step 0 already; stale weights need an update."
    ),
}
"""Alphabetical pairs; the sentence holds in both directions."""


def tells_apart(a: str, b: str) -> str:
    """How to tell two neighbouring causes apart.

    Raises:
        KeyError: nobody wrote it down; a test sees to it that neighbours have it.
    """
    return _PAIRS[min(a, b), max(a, b)]
