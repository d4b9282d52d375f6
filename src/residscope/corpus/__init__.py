"""Corpora: text in, streaming statistics and dictionaries out."""
