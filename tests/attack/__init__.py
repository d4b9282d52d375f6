"""An independent reference for edited runs, and the property that every way in gives its numbers."""
