"""`python -m nll` is the command `nll`."""

from nll.cli import main

main()
