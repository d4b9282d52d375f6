"""What a run says on its way: lenses, losses, norms, tokens, what is written next, and whether a task can be worked with."""
