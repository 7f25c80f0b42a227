"""The command line: verbs only. Nothing heavy is imported before a verb needs it.

stdout carries results, stderr progress and errors. Exit 0 only if every requested result exists, 1 if a cell failed,
2 for arguments that cannot mean anything, 130 after Ctrl-C.
"""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Sequence
from functools import reduce
from operator import or_
from typing import Annotated, Any

import tyro
from tyro.conf import subcommand

from densebench.cli.compare import Compare
from densebench.cli.data import DataVerb
from densebench.cli.overview import CheckModel, Leaderboard, List, Show, Verify
from densebench.cli.pictures import Pictures
from densebench.cli.results import Records
from densebench.cli.run import Run
from densebench.cli.train import Pseudolabel, Train
from densebench.cli.work import Work
from densebench.core import process
from densebench.core.errors import DensebenchError
from densebench.core.package import __version__

VERBS = {
    "run": Run,
    "work": Work,
    "train": Train,
    "pseudolabel": Pseudolabel,
    "pictures": Pictures,
    "leaderboard": Leaderboard,
    "compare": Compare,
    "list": List,
    "show": Show,
    "verify": Verify,
    "check-model": CheckModel,
    "data": DataVerb,
    "results": Records,
}


def _verbs(asked: str) -> Any:
    """Return the verbs as tyro takes them; examples are printed by the help of the verb that is asked for, alone."""
    every = []
    for name, verb in VERBS.items():
        told, _, examples = inspect.cleandoc(verb.__doc__ or "").partition("\n\nExamples:\n")
        described = f"{told}\n\nExamples:\n{examples}" if name == asked else told
        every.append(Annotated[verb, subcommand(name, description=described)])
    return reduce(or_, every)


def parse(arguments: Sequence[str]) -> Any:
    """Return the verb that a command line asks for, with its options; a callable that returns an exit code.

    Raises SystemExit for options that it does not have, and DensebenchError for a value that an option's own parser
    refuses.
    """
    return tyro.cli(
        _verbs(arguments[0] if arguments else ""),
        prog="densebench",
        description="How good are a vision encoder's dense features? One command, every protocol the papers use.",
        args=list(arguments),
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, run the verb, exit with its code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments == ["--version"]:
        print(__version__)
        sys.exit(0)
    try:
        verb = parse(arguments)
    except DensebenchError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    sys.exit(_guarded(verb))


def _guarded(verb: Any) -> int:
    """Run a verb; a user's error becomes one line and its exit code."""
    try:
        code = verb()
        lost = process.output_lost()
        if lost is None:
            return code
        print(f"error: what was to be printed is lost ({lost.strerror}).", file=sys.stderr)
        return code if isinstance(verb, Run) and not verb.results.json else max(code, 1)
    except DensebenchError as error:
        if verb.debug:
            print(error.trace, end="", file=sys.stderr)
            raise
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except SystemExit as end:
        if verb.debug:
            traceback.print_exception(end)
        print(
            f"error: code that is not of this package called exit({end.code!r}) before the work was done; --debug "
            "shows where.",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        return process.say_stopped()
