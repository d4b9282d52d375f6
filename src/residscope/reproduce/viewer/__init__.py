"""The tour of the Residual Stream Viewer, taken again."""
