"""Interpretability in the Wild (Wang et al., 2022, arXiv:2211.00593): the circuit of IOI, on any model."""
