"""Every causal type of the installed transformers: looked at, certified, and its runs held to the same properties."""
