"""What several methods share. One method is one file of the folder above."""
