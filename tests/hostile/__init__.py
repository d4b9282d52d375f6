"""Hostile bytes for every reader: random changes of what is whole, and cases made by hand (`python -m hostile`)."""
