"""`densebench results`: look after the records of a folder."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from densebench.cli.options import Debug, Quiet
from densebench.core.errors import UsageError
from densebench.core.text import say

if TYPE_CHECKING:
    from densebench.results.merge import Merge
    from densebench.results.migrate import Migration

Verb = Literal["merge", "validate", "prune", "withdraw", "migrate"]


@dataclass
class Records:
    """Look after the records of a results folder. Exit 1 if something is wrong with any.

    merge FOLDER...: copy the records of other folders, losing nothing of either.
    validate: read every record, and see that its files are there and its values follow from its statistics.
    prune: list what can go (withdrawn, measured again, without a record); --yes removes it.
    withdraw HASH --why TEXT: take a result back; it stays, marked, and leaves the ranking.
    migrate: rewrite what older versions wrote, in place.

    Examples:
      densebench results merge colleague/results --out results
      densebench results withdraw 5bdf9e62 --why "wrong weights"
    """

    verb: Annotated[Positional[Verb], arg(help="What is done.")]
    names: Annotated[
        Positional[tuple[str, ...]],
        arg(metavar="[FOLDER|HASH...]", help="merge: folders of results; withdraw: hashes, or how they begin."),
    ] = ()
    out: Annotated[Path, arg(metavar="DIR", help="Folder of results, as --out of run.")] = Path("results")
    why: Annotated[str, arg(metavar="TEXT", help="withdraw: the reason that tables show.")] = ""
    limited: Annotated[bool, arg(help="prune: records of --limit runs too.")] = False
    yes: Annotated[bool, arg(help="prune: remove what is listed.")] = False
    quiet: Quiet = False
    debug: Debug = False

    def __call__(self) -> int:
        """Do it, print what was done, and return 1 where something is left to be done by hand."""
        self._check()
        verbs: dict[Verb, Callable[[], int]] = {
            "merge": self._merge,
            "validate": self._validate,
            "prune": self._prune,
            "withdraw": self._withdraw,
            "migrate": self._migrate,
        }
        return verbs[self.verb]()

    def _check(self) -> None:
        takes_names = self.verb in ("merge", "withdraw")
        if takes_names and not self.names:
            what = "folders of results" if self.verb == "merge" else "the hash of a record"
            raise UsageError(f"results {self.verb} needs {what}: densebench results {self.verb} --help.")
        if self.names and not takes_names:
            raise UsageError(f"results {self.verb} takes no names; got {self.names[0]!r}. The folder is --out DIR.")
        if bool(self.why) != (self.verb == "withdraw"):
            raise UsageError("--why TEXT goes with results withdraw, and withdraw needs it: readers will ask.")
        if (self.limited or self.yes) and self.verb != "prune":
            raise UsageError("--limited and --yes go with results prune.")

    def _merge(self) -> int:
        from densebench.results.merge import merge

        return self._told(merge(self.names, self.out))

    def _migrate(self) -> int:
        from densebench.results.migrate import migrate

        return self._told(migrate(self.out))

    @staticmethod
    def _told(done: Merge | Migration) -> int:
        for problem in done.left:
            print(problem, file=sys.stderr)
        print(done.line)
        return int(bool(done.left))

    def _validate(self) -> int:
        from densebench.core.progress import Progress
        from densebench.results.store import ResultStore
        from densebench.results.validate import validate

        total = len(ResultStore(self.out).paths())
        wrong = n_records = 0
        for _, findings in Progress(self.quiet).track(validate(self.out), "validate", total, "records"):
            n_records += 1
            wrong += any(finding.wrong for finding in findings)
            for finding in findings:
                say(str(finding))
        print(f"{n_records} records, {wrong} of them with something wrong")
        return int(bool(wrong))

    def _prune(self) -> int:
        from densebench.results.prune import remove, surplus

        found = surplus(self.out, self.limited)
        for item in found:
            say(f"{item.path} ({item.n_bytes / 1e6:.1f} MB): {item.why}")
        if self.yes:
            remove(self.out, found)
        elif found:
            print("nothing is removed yet: --yes removes these", file=sys.stderr)
        print(f"{len(found)} {'removed' if self.yes else 'can go'}")
        return 0

    def _withdraw(self) -> int:
        from densebench.leaderboard.record import find_records
        from densebench.results.store import ResultStore

        store = ResultStore(self.out)
        for path, record in [pair for name in self.names for pair in find_records(self.out, name)]:
            with store.lease(path):
                store.write(path, record.model_copy(update={"withdrawn": self.why}))
            say(f"{record.title}: withdrawn. Tables mark it; `densebench run` measures the cell again.")
        return 0
