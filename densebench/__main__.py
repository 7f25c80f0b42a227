"""The entry of the command line: signals, temporary files and streams first, everything else after."""

from densebench.core import process


def main() -> None:
    """Run the command line in a process that ends as it should."""
    process.begin()
    try:
        from densebench.cli import main as run

        run()
    except BaseException:  # also what was raised on the way out
        if process.was_stopped():
            process.end()
        raise


if __name__ == "__main__":
    main()
