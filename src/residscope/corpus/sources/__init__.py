"""Where documents come from, and in what order: files of every kind, data sets, built-in texts, the model itself."""
