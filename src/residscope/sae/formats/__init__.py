"""Other libraries' formats, one a file; which one a file is of is found in what it holds."""

from residscope.sae.formats import circuit_tracer, dictionary_learning, gemma_scope, openai, saelens, sparsify
from residscope.sae.formats.base import Format, Found, Unit

FORMATS: tuple[Format, ...] = (
    saelens.FORMAT,
    sparsify.FORMAT,
    gemma_scope.FORMAT,
    openai.FORMAT,
    dictionary_learning.FORMAT,
    circuit_tracer.FORMAT,
)
UNDERSTOOD = (
    "; ".join(f"{one.name} ({one.files})" for one in FORMATS) + "; cross-layer transcoders (W_enc_0, W_dec_0 ...)"
)

__all__ = ["FORMATS", "UNDERSTOOD", "Format", "Found", "Unit", "format_of"]


def format_of(unit: Unit) -> Format | None:
    """The format that a unit is of; None for none."""
    return next((one for one in FORMATS if one.mine(unit)), None)
