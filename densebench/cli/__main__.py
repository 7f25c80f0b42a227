"""`python -m densebench.cli`, for launchers that start modules."""

from densebench.__main__ import main

main()
