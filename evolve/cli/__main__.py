"""`python -m evolve.cli` is the command `evolve`."""

from evolve.cli.main import main

main()
