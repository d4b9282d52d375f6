"""The live session: model, prompt, edits, runs; intents in, numbered patches out. No framework in this room."""

from residscope.session.session import Session

__all__ = ["Session"]
