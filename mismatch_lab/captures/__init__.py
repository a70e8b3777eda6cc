"""Captures: what one side recorded, on disk, and how two of them are lined up.

`capture` is the record in memory, `store` reads and writes it (whole or not at all), `align`
pairs the tokens of two captures, `taps` records module inputs and outputs through hooks.
"""
