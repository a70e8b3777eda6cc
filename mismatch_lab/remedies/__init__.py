"""Fixes: one package or module each, with its formula and its source."""
