"""What plain values mean: a model as a session or a command line holds it, its live prompt, its edits, and the Python of them."""
