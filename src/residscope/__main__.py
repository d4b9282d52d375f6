"""`python -m residscope`."""

from residscope.cli import main

main()
