"""Probes: fitted, mapped, and used to edit."""
