"""Every failure a person can meet: what happened, what to type next, and its exit code.

Libraries raise these and never exit; `cli.main` prints `error:` and `hint:` and ends with the code.
"""


class EbwmError(Exception):
    """A failure with its remedy. `message` says what is wrong, `hint` the next command to type."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(EbwmError):
    """The command line itself is wrong."""

    exit_code = 2


class RecipeError(EbwmError):
    """A recipe doesn't parse, doesn't validate, or doesn't fit the prepared set."""

    exit_code = 3


class DataError(EbwmError):
    """Clips or a prepared set are missing, damaged, busy or unusable."""

    exit_code = 4


class DivergedError(EbwmError):
    """Training produced NaN or infinity too many times in a row."""

    exit_code = 5


class CheckpointError(EbwmError):
    """A checkpoint is missing, damaged, or belongs to another recipe."""

    exit_code = 6


class ResourceError(EbwmError):
    """The machine lacks a device, memory or disk that was asked for."""

    exit_code = 7


class StoppedAndSaved(EbwmError):
    """SIGTERM, SIGUSR1 or SIGHUP came; the run is saved and the same command resumes it."""

    exit_code = 75


class Interrupted(EbwmError):
    """SIGINT came; the run is saved and the same command resumes it."""

    exit_code = 130
