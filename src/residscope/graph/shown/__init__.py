"""A graph as a person sees it: its layout, its picture, names that people give its nodes."""
