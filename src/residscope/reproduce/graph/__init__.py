"""Causal Graphs of GPT-2-Small's Residual Stream (Udell, 2024), with the dictionaries at hand."""
