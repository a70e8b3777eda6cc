"""Plugins: functions that get a side's torch module once its weights are loaded.

    mismatch-lab diagnose --trainer-plugin examples/plugins.py:drop_sinks --depth standard
    mismatch-lab diagnose --engine-plugin examples/plugins.py:print_modules

Use one to try a patch on one side only, or to see what a fault looks like.
"""

from typing import Any


def drop_sinks(model: Any) -> None:
    """A trainer whose attention kernel ignores GPT-OSS's sinks: LinkedIn's bug."""
    for layer in model.model.layers:
        layer.self_attn.sinks.data.fill_(-1e4)


def print_modules(model: Any) -> None:
    """What there is to patch; it goes to the side's log in the run folder."""
    for name, parameter in model.named_parameters():
        print(name, tuple(parameter.shape))
