"""Methods: each a pure function from a model and prompts to a `Result`, one file each."""
