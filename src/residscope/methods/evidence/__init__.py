"""Whether a direction means anything: what is gathered for it and against it."""
