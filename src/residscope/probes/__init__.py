"""Probes, and the edits that are made from them: LRQP, and what it is compared with."""
