"""`python -m densebench.cli`, for launchers that start modules."""

from densebench.cli import main

main()
