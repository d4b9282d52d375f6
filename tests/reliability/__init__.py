"""What is tried for long: many pages at once, and processes that are killed."""

FAULT = "**Fault:**"
"""What a line of a report begins with that says what gave way."""
