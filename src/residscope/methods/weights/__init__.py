"""What the weights say without any run: circuits of heads, composition, directions."""
