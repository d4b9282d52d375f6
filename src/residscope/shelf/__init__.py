"""The shelf: items by name, each a file of its own in a folder; what is shown of them."""
