"""From captures to findings: edges, noise floor, routing, localisation, weights, and the verdict.

Measures stay in `measures` (pure numpy); here is what they are applied to, and what follows.
"""
