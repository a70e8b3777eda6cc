"""The numbers that attribution decides by: thresholds, and how sure each kind of finding is.

Where a number follows from something (a float format, a probability, a measurement) its line says
so. The others were set by hand while the planted faults of the scorecard were worked on; the
scorecard measures what they come to together. Confidences were held against a fitted calibration,
which says too much of what it has not seen (reports/published/how-far-to-trust-it.md).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Thresholds:
    """Each field: its unit, and what it bounds."""

    # Who is wrong
    smallest_nats: float = 3e-6
    """Nats. Kernels of different programs differ by this much in fp32 where nothing is wrong:
    measured."""
    clearly_below: float = 20.0
    """Times the noise. A token that is lower by this much is lower by itself."""
    clearly_below_share: float = 0.02
    """Share of tokens that chance puts there, where a defect only raises log-probs."""

    # Experiments
    budget_s: float = 300.0
    """Seconds for experiments, where nothing else is asked."""
    distributions_bytes: int = 48 << 20
    """Bytes for whole distributions: as many sampled positions as fit are recorded in full."""
    control_rows: int = 2
    """Rows for controls: code that computes something else shows in every row."""
    control_nats: float = 3e-5
    """Nats, mean |delta|, up to which two pieces of code compute the same thing in float32: ten
    times what programs differ by on small models, since deep ones differ more."""
    gone_share: float = 0.2
    """Share of the error up to which it is gone in an experiment."""
    stays_share: float = 0.5
    """Share of the error from which it stays. Nothing is concluded between the two."""
    one_of_several_share: float = 0.9
    """Share of the error that is left at most where one of several causes is put right."""
    experiments_per_cause: int = 2
    """Experiments for one cause, or for one tie."""
    experiments_without_cause: int = 3
    """Experiments where no cause is known."""
    float32_slower: float = 2.0
    """Times as long. float32 has twice the bytes; where half precision has units of its own, it
    takes more."""

    # The search
    exploring_rows: int = 8
    """Rows on which hypotheses are compared; the outcome is checked on all."""
    causes_per_suspect: int = 3
    """Defects looked for on one suspect."""
    search_beam: int = 4
    """Unfinished explanations that are carried on."""
    part_of_it_shared: float = 0.02
    """Squared correlation. A hypothesis that shares less with the suspect's error alone is no part
    of it."""
    further_cause_share: float = 0.6
    """Share of what the causes before it leave that a further cause may leave at most."""
    tie_factor: float = 1.15
    """Times the best residual. Within it explanations are ties, as far as the data can say."""
    half_precision_nats: float = 1e-4
    """Nats. Noise above this is that of half precision."""
    half_precision_explained: float = 0.95
    """Share of the error that an explanation in half precision need remove."""
    notable_explained: float = 0.5
    """Share of the error that an explanation must remove to pass for one because little is left: on
    some rows the whole error may be as small as the noise."""
    mostly_explained: float = 0.8
    """Share of the error. An explanation of it is kept; what is left is looked for among all
    hypotheses again. A candidate as sure as that needs no observation beside it."""
    same_size_slope: float = 0.5
    """Distance of a slope from 1 up to which a change is there at about the size that was
    predicted."""
    half_of_a_pair_explained: float = 0.3
    """Share of the error. An explanation of it may be one of two."""
    layers_tried: int = 12
    """Layers. Without a located one, so many are tried, spread over the model."""
    further_layer_share: float = 0.7
    """Share of what the layers before it leave that a further layer may leave at most."""
    layer_shared: float = 0.1
    """Share of the error. A hypothesis that shares less with it, in its best layer, is not carried
    on."""
    worth_refining: float = 0.2
    """Share of the error that the best grid value must explain, or share with, to be refined."""
    golden_steps: int = 7
    """Golden-section steps, which cannot fail; then secant steps, which converge fast."""
    secant_steps: int = 6
    """Secant steps."""
    single_tensors: int = 60
    """Changed tensors up to which single ones are tried one by one."""
    nothing_left_nats: float = 1e-12
    """Nats. Below this nothing is left to explain."""
    same_shape_shared: float = 0.4
    """Squared correlation from which on a change is taken for the predicted one at another size: in
    some heads, or for some tokens."""
    weaker_slope: float = 0.9
    """Slope below which a change is weaker than predicted; nearer to 1 it is noise."""
    further_number_share: float = 0.6
    """Share of the residual that a further fitted number may leave at most."""

    # Naming and ruling out
    named_explained: float = 0.28
    """Share of the error. An explanation that removes less names nothing."""
    next_tensor_share: float = 0.85
    """Share of what the second-best tensor leaves, left free, that the best may leave at most: the
    right one of a small Llama left 0.6 to 0.76 of it, and others 0.9 to 1 of each other."""
    ruled_out_share: float = 0.5
    """Share of what the best hypothesis removes, up to which another is ruled out: what comes
    nearer may be a part of it, or the same thing in other words."""
    ruled_out_shown: int = 8
    """Hypotheses that are listed as ruled out, those that came nearest."""

    # Values and tokens
    on_grid_share: float = 0.98
    """Share of values on a format's grid. Of float32 numbers one in thousands is, by chance."""
    on_grid_values: int = 50
    """Values that are needed to say so."""
    row_on_grid_share: float = 0.99
    """Share of a row's values that lie on a grid if it was rounded to it."""
    row_on_grid_values: int = 6
    """Values needed to say that a row lies on a grid: one in 100 lies on that of 4 decimals
    anyway."""
    repeated_constant: int = 2
    """Wrong tokens that carry exactly one whole number: by chance float32 log-probs are none."""
    possible_nats: tuple[float, float] = (-50.0, 0.0)
    """Nats. Outside of this a whole number is a sentinel even if it occurs once: nobody samples a
    token of probability e**-50, and log-probs are not above 0."""
    cut_to_one_nats: float = -0.7
    """Nats, log of one half. Where top-p or min-p keep one token alone, it is likelier than all
    others together."""
    cut_to_one_share: float = 0.5
    """Share of the tokens that are as likely as these: most are kept alone too, if it is a cut."""
    constant_share: float = 0.2
    """Share of wrong tokens. Another number is a constant if so many carry it; on a coarse grid, or
    near certainty, a few tokens share a value by chance."""
    neighbours_share: float = 0.8
    """Share of wrong tokens that must carry a neighbour's log-prob; by chance few do."""
    single_tokens_share: float = 0.5
    """Share of all tokens. Where more are wrong, it is no matter of single ones."""
    wrong_token: float = 20.0
    """Times the noise. A token that is off by this is wrong by itself."""
    misread_error: float = 0.1
    """Relative error of an embedding that is another token's: unrelated vectors are 1.4 apart, and
    rounding stays below 0.01."""
    misread_share: float = 0.9
    """Share of positions. If more are wrong, the embedding is, not what was read."""
    kin_share: float = 0.5
    """Share of the shorter answer. Rows are of one conversation if their answers agree in so much,
    from either end."""
    kin_rows_share: float = 0.75
    """Share of rows that must be of one conversation."""
    two_captures_tokens: int = 1 << 16
    """Tokens. Larger captures are looked at in part."""
    two_captures_probes: int = 4
    """Distributions at tokens that differ, needed to say whether a side agrees with its own."""
    contradicted_share: float = 0.25
    """Share of the tokens with one possible value that the other side contradicts if it is none."""
    near_certain_nats: float = 0.01
    """Nats below 0 up to which a token is near certainty. Who is below it contradicts a log-prob of
    exactly 0: these are 12 nats of a logit apart, which no precision moves."""
    fill_over_near: float = 5.0
    """Times the share that is contradicted of log-probs near certainty, and not exactly 0. More of
    those at 0 is a fill: certainty itself is contradicted as rarely."""
    other_way_share: float = 0.1
    """What ratios above 1 exceed it by, over what those below fall short by: up to here a
    difference goes one way. Of whole distributions the two are equal; precision gives some of
    either."""
    two_tokens_nats: float = 0.05
    """Nats. From this difference on it may be another token's log-prob;"""
    two_tokens_probability: float = 1.05
    """of both tokens together, which rounding may bring above 1 by a little. With more they are not
    two tokens."""
    row_noise: float = 2.5
    """Times the error of the median row under the better reading, from which on a row is off."""

    # What was drawn
    as_likely_nats: float = 2.0
    """Nats. Suppositions within so many of the best are not told apart."""
    supposition_gain_share: float = 0.5
    """Share of what the best temperature would gain at the z that was seen, z² / 2, that a
    supposition must gain to be named. Where none does, tokens are drawn in a way that is not
    supposed here."""
    held_out_gain_nats: float = 5.0
    """Nats gained in rows that a number was not chosen on, from which on they confirm it: of a true
    report once in 150 runs (exp(-5))."""

    # Modules and routers
    coarse_rounding: tuple[float, float] = (2.0**-12, 2.0**-5)
    """Relative error of one operation in half precision, from fp16 to a few roundings of bf16."""
    before_flip_share: float = 0.1
    """Share of the others' error that tokens before any change of experts carry at most, where the
    routers are the cause."""
    rounded_outputs_share: float = 0.3
    """Share of a module's outputs that are wrong at least, where it is rounding; a clamp or a wrong
    row touches few."""
    rounded_output_error: float = 0.05
    """Share of the typical error from which on an output counts as wrong."""
    rounding_cosine: float = 0.5
    """Cosine between error and output above which the output is longer or shorter, not rounded."""
    choices_over_floor: float = 3.0
    """Times the choices that the reference makes otherwise in the sides' precision. Where logits
    were not recorded, fewer are precision: as a module's error is up to three of its floors."""
    one_way_share: float = 0.5
    """Share of changed choices that go one way, expert by expert: chance is near 0, a bias near
    1."""
    corrected_share: float = 0.02
    """Share of a layer's choices against its logits from which on the reference's router corrects
    them: fewer may be rounding."""
    tied_margin: float = 1e-6
    """Margin over the spread of a token's router logits up to which these are equal."""
    near_tie_margin: float = 0.3
    """Margin over the spread of a token's router logits up to which it is a near-tie."""
    untouched_share: float = 0.1
    """Share of the difference after a change of experts. Where tokens before any differ by less,
    the routers are what differs."""
    router_jump: float = 30.0
    """Times the difference before. Where router logits differ by so much more, the first change of
    experts of a row is no near-tie that noise decided: something before the router did that."""
    training_mode_factor: float = 2.0
    """Times the difference of a repetition. From there on training mode adds something of its
    own."""
    own_error_share: float = 0.05
    """Share of the trainer's error from which on its contradiction of itself counts as a cause."""
    own_consequence_explained: float = 0.5
    """Share of the error. One simple defect that explains it makes the trainer's contradiction its
    consequence: coarse rounding falls otherwise in another batch."""

    # Weights
    all_tensors_share: float = 0.9
    """Share of tensors from which on it is all of them."""
    mixture_share: float = 0.05
    """Share of the error. The mixture of old and new explains the engine when at most this is
    left,"""
    mixture_floors: float = 2.0
    """or at most this many times what precision does."""
    unrelated_error: float = 0.5
    """Relative error from which on a module's output has little to do with the right one (two
    unrelated outputs of one size are 1.4 apart)."""


@dataclass(frozen=True)
class Confidence:
    """How sure a candidate is, from 0 to 1, by how it was found."""

    agreement_at_most: float = 0.95
    """A cause that only agreement of two ways of finding it makes sure, at most."""
    place_put_back: float = 0.9
    """A place without a name, where putting it back takes the error away. A cause that acts in the
    same place has a share of it."""
    effect_stayed: float = 0.5
    """A cause whose effect stayed where it had to go, at most."""
    contradicted_by_definition: float = 0.6
    """A place in transformers' code that the model's definition contradicts, where no cause
    predicts what that code computes."""
    unlisted: float = 0.6
    """The first wrong module, without a name. A candidate that is surer leaves nothing unlisted."""
    rounding_of_its_size: float = 0.7
    """Lost precision, where the error has its size and looks like rounding."""
    rounding_in_its_place: float = 0.6
    """Lost precision, where the error only looks so, or was not recorded."""
    begins_there: float = 0.4
    """Lost precision, where the error merely begins there."""
    down_to_noise: float = 0.98
    """An explanation that leaves nothing but noise."""
    explained_at_least: float = 0.2
    """An explanation of a part: this,"""
    explained_slope: float = 0.8
    """and this for the whole of the error, in proportion;"""
    explained_at_most: float = 0.95
    """but no more than this."""
    token_pattern: float = 0.95
    """Constants, a neighbour's values: tokens that carry them whatever the model says."""
    value_grid: float = 0.97
    """All values lie on the grid of a coarse format."""
    row_grid: float = 0.95
    """The values of one side lie on a coarse grid, and rounding the other's explains the
    difference."""
    row_grid_unexplained: float = 0.5
    """The same where it does not, or where both sides' do."""
    moved_values: float = 0.95
    """One side's log-probs are the other's of the token before or after."""
    misread_tokens: float = 0.9
    """Embeddings of other tokens than were given."""
    other_ids: float = 0.95
    """Two captures with other ids in prompts, or in answers that spell the same text."""
    other_ids_and_text: float = 0.85
    """Answers whose ids spell another text, or one that is not known."""
    against_own_logits: float = 0.9
    """Routers that choose against their own logits, one way, or where the reference's do not."""
    choices_alone: float = 0.6
    """The same from choices without logits: other weights of a router make it choose otherwise as
    well."""
    near_tie_flips: float = 0.8
    """Routers that choose against their own logits where these are nearly tied."""
    own_contradiction: float = 0.9
    """A trainer that disagrees with itself."""
    copied: float = 0.6
    """The same log-probs to the last bit in all rows: two programs may run the same kernels."""
    copied_beside_others: float = 0.9
    """The same in some rows, where others differ at almost every token."""
    one_sided: float = 0.3
    """A difference that goes one way: what it may be, without a reference that tells."""
    own_account: float = 0.6
    """Log-probs of other distributions by the record's own account; whether that is all of the
    difference, it does not say."""
    missing_record: float = 0.95
    """Sampled tokens without a log-prob, or with probability 0."""
    above_zero: float = 0.6
    """Log-probs above 0: that a normaliser is too small, not which part of it is missing."""
    sampling_unexplained: float = 0.6
    """Sampling that disagrees with a re-scoring that is right, where nothing simulated explains
    it."""
    sampling_and_scoring_unexplained: float = 0.3
    """The same with a re-scoring that is wrong as well, maybe for the same reason."""
    sampling_after_update: float = 0.5
    """The same after an update of the weights, for either of what may remain of it."""
    weights_unlike: float = 0.85
    """Tensors whose fingerprints are not the checkpoint's."""
    weights_effect_stayed: float = 0.3
    """The same, where loading them again does not help."""
    weights_loaded_again: float = 0.95
    """The same, where it does."""
    old_tensors_mixed: float = 0.99
    """Tensors that an update left old: the reference with exactly these old says what the engine
    says."""
    old_tensors_mixed_unclear: float = 0.98
    """The same, where other tensors could not be told."""
    old_tensors: float = 0.95
    """Tensors that an update left old, by each module alone."""
    old_tensors_unclear: float = 0.7
    """The same, where other tensors could not be told."""
    experts_in_neither: float = 0.8
    """Experts that hold neither version since an update."""
    cached_rows_alone: float = 0.95
    """Since an update, rows with a cached prefix alone are wrong."""
    graphs_replayed: float = 0.8
    """Since an update, sampling is wrong without a cached prefix too, and graphs are replayed."""
    drawn_otherwise: float = 0.9
    """A setting under which the drawn tokens are likeliest; shared where several are as likely."""
    server_default: float = 0.95
    """A setting that a server was seen to apply by itself."""


THRESHOLDS = Thresholds()
CONFIDENCE = Confidence()
