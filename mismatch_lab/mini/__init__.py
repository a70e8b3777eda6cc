"""The embedded model `mini-gpt-oss`: its problems, its tokenizer, its training and its weights."""

from pathlib import Path


def checkpoint_dir() -> Path:
    """Folder of the trained checkpoint that ships with the package (Hugging Face layout)."""
    return Path(__file__).parent / "checkpoint"
