"""What a model is before anything runs: sites, families, weights, catalog, prompts."""
