"""What is asked of both sides: named sets of prompts, and lengths that follow the model."""
