"""The engine: stock models, run with captures, edits, readouts and windows; nothing of a run survives it."""
