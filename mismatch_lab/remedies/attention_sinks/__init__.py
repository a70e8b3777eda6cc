"""Attention sinks, forward and backward, through any flash kernel that returns its log-sum-exp.

GPT-OSS gives every query head a learned logit s, the sink, that takes part in the softmax and has
no value: `P_ij = exp(S_ij - L_i)`, `p_i = exp(s - L_i)`, `L_i = log(sum_j exp S_ij + exp s)`,
`out_i = sum_j P_ij v_j`. A kernel without sinks yields `o_i` and `lse_i = log sum_j exp S_ij`, so

    forward     L = logaddexp(lse, s)        out = o · exp(lse - L) = o · sigmoid(lse - s)

Backward, the sink's column of dP is zero because it has no value, so the softmax's Jacobian over
all columns, the sink's among them, gives

    dS_ij = P_ij (dP_ij - D_i)     D_i = sum_j P_ij dP_ij = dout_i · out_i     ds = -sum_i p_i D_i

A flash backward recomputes `P = exp(S - lse)` and `D = rowsum(dout ∘ out)` from the `lse` and the
`out` that it is handed: handed L and the rescaled out, it returns exact dQ, dK and dV as it is.
(The long way round ends at the same place: with c = sigmoid(lse - s), `do = c dout` and
`dlse = c (1 - c) dout·o`; a flash backward takes a dlse as `D - dlse`, and
`exp(S - lse) ∘ (c dP - (c dout·o - dlse)) = P ∘ (dP - dout·out)`.)

So the price of sinks is one elementwise pass over out forward and one reduction backward.

Source: the sinks are OpenAI's gpt-oss; the equations are those of Dao et al., FlashAttention,
https://arxiv.org/abs/2205.14135, appendix B, with one more column.
"""
