"""What heads look at and what they do with it."""
