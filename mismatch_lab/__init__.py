"""Find out why the sampler and the trainer of an RL run disagree."""

__version__ = "0.1.0"
