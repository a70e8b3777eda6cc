"""Arms side by side: `compare` trains each over the same seeds and reports what differs."""
