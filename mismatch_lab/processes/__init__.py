"""Processes of this program: how they are started, asked, followed and ended."""
