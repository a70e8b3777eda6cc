"""Is it right on this GPU, and what does it cost? Errors, times and memory, beside other ways.

`python -m mismatch_lab.remedies.attention_sinks.bench FOLDER` writes JSON and a page of tables.
"""
