"""What lies in a checkpoint: its config, its tensors, and what tells two of them apart."""
