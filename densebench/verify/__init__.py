"""Are the installed numerics those of the published code? `densebench verify` asks golden vectors.

A file of golden vectors holds inputs and what a public reference implementation made of them. `kinds.py` tells what
kind of file it is, one small module per family recomputes and compares, `folder.py` goes through a folder,
`report.py` prints. Tolerances stand next to the comparisons; they are those stated with the vectors.
"""
