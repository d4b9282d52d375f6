"""Weights as matrices of the stream: what parts read and write, over the vocabulary, and as Gram matrices."""
