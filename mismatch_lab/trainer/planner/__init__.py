"""What a run will need of memory, from its settings and the model's config.json alone."""
