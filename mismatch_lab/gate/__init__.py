"""The gate: does a run keep log-prob parity, by rules, with intervals and against a baseline?

`record` reads what is judged and refuses what is no measurement, `rules` reads the limits,
`judge` holds one against the other, `baseline` keeps an earlier run to compare with, and `outputs`
says the answer to people and to CI systems.
"""
