"""Less of a graph: its strongest edges, its connected parts, its strongest paths."""
