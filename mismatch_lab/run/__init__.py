"""A run: what was asked, where it goes, who makes it, in which order."""
