"""Intervening in the Residual Stream (2023), run again."""
