"""Engines: programs that sample or score. Each records captures, none computes a measure."""
