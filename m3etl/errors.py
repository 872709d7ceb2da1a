"""The error tree, grouped by what the user does next. Each class carries the exit code of the command line."""

from __future__ import annotations


class M3etlError(Exception):
    """Base of every error that m3etl raises on purpose; shown to the user as one message without a traceback.

    `message` says what was asked and what was found; `hint` says what to do about it.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class InputError(M3etlError):
    """The request itself is wrong: unknown name, bad value, bad file, over budget. Correct it and run again."""

    exit_code = 2


class BudgetError(InputError):
    """The request is valid but exceeds the budget that was set."""


class MissingExtraError(InputError):
    """An optional package is not installed; the message names the pip command."""


class NothingSelectedError(M3etlError):
    """Nothing matches the request, an input data set is missing, or an audit found something."""

    exit_code = 3


class AuditError(NothingSelectedError):
    """`validate` found something wrong in the data."""


class RemoteError(M3etlError):
    """The remote side failed or refused; running the same command again may help."""

    exit_code = 4


class AuthenticationError(RemoteError):
    """No usable login, or the service rejected it."""


class DamagedError(M3etlError):
    """The store, the ledger or another file of the campaign is damaged or of another format version."""

    exit_code = 5
