"""Reproductions: a published claim run again on a model, with a verdict for each claim and one page that shows it all."""
