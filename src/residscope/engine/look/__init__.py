"""Looking: a decoder's family found from one short forward of the model itself.

Every module's input and output are kept, and what is equal to what decides: the stream is what goes from block to block,
a writer is a module whose output is in the difference between a block's end and its start, a norm is what divides as one.
Names only break ties. What is found is a family as a data file has it, and the certificate is its judge.
"""

from residscope.engine.look.family import look

__all__ = ["look"]
