"""The reference trainer: GRPO with real rollouts, in which faults are planted and fixes applied."""
