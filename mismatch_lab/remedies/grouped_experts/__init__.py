"""Experts of a mixture without materialising anything: `experts_implementation="grouped-experts"`.

For the tokens x of one expert, with its weights U [H, 2I] and D [I, H] and routing weights w,

    forward     p = x U + u     a = gate(p)     y = a D + d     out += w y

Backward needs g = dout Dᵀ, from which, without y,

    dw = rowsum(g ∘ a) + dout·d     dp = gate'(p)ᵀ (w g)     dx += dp Uᵀ
    dU = xᵀ dp     du = sum dp      dD = aᵀ (w dout)         dd = sum w dout

p and a are computed again from x, so that nothing is kept for the backward pass but the layer's
own inputs and the order of the slots (8 bytes each). One expert is worked on at a time, in pieces
of at most `ROWS` slots, and its gradient is added where it belongs: memory does not depend on how
uneven the routing is. The price is one matmul more: 11 for 9, forward and backward.

Output and gradients of x are summed over experts in float32 or wider, one expert after another:
the result does not depend on the order in which threads finish.

Source: the loop over experts is OpenAI's gpt-oss in transformers; computing activations again is
Chen et al., https://arxiv.org/abs/1604.06174. What each of transformers' own ways needs, and what
LinkedIn's team ran into (https://huggingface.co/blog/LinkedIn/gpt-oss-agentic-rl), is in `memory`.
"""
