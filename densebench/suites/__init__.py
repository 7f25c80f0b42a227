"""Suites: a paper's table, or a set of cells of one's own, under a name; `run --suite paka-1` runs exactly these.

`suite.py` is the contract, `tables/` holds one TOML file per suite, `table.py` puts measured beside published values.
"""

from densebench.suites.suite import Suite, SuiteCell, load_suite, suite_names

__all__ = ["Suite", "SuiteCell", "load_suite", "suite_names"]
