"""Harvest: one forward over a text feeds any number of mergeable statistics, here, over processes or on a cluster."""
