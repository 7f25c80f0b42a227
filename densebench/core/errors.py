"""What can go wrong for a user, each with the exit code it ends in.

Every message says what was found, what was expected, and the next command. The command line prints these without
a traceback (`--debug` shows it). Any other exception is a bug, of ours or of code that is called: it ends its own cell
of a run as UnexpectedError, and other commands with its traceback.
"""


class DensebenchError(Exception):
    """Base of all errors that are a user's to fix. Exit code 1."""

    exit_code = 1
    trace: str = ""
    """The traceback as text, where the error outlives it."""


class UsageError(DensebenchError):
    """The request itself is off: an unknown name, an impossible setting. Exit code 2."""

    exit_code = 2


class DatasetError(DensebenchError):
    """Files of a dataset are missing, corrupt, or hold values they must not hold."""


class CorruptFileError(DatasetError):
    """One file cannot be decoded; `path` names it, `index` is its sample."""

    def __init__(self, message: str, path: str = "", index: int = -1) -> None:
        super().__init__(message)
        self.path = path
        self.index = index

    def __reduce__(self) -> tuple[object, ...]:  # crosses process borders from loader workers
        return type(self), (str(self), self.path, self.index)


class ModelError(DensebenchError):
    """A backbone cannot be built, its weights do not fit, or it was asked for what it does not have."""


class MissingWeightsError(ModelError):
    """The weights of a model of the catalogue are not on this machine, and cannot be fetched; `entry` is its name."""

    def __init__(self, message: str, entry: str) -> None:
        super().__init__(message)
        self.entry = entry


class FeatureError(DensebenchError):
    """A backbone returned features that no protocol can use (wrong shape, NaN, infinite)."""


class StorageError(DensebenchError):
    """Results or caches cannot be read or written."""


class PluginError(DensebenchError):
    """A registered name whose code cannot be imported."""


class UnexpectedError(DensebenchError):
    """What nobody foresaw, with the place it was raised at."""


class LoaderError(DensebenchError):
    """A process that reads images was killed, crashed, ended by itself or hangs."""
