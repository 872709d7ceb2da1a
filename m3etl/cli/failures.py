"""The one place where an error becomes a message on standard error and an exit code."""

from __future__ import annotations

import errno
import os
import sys
import traceback

import click

from m3etl import __version__
from m3etl.errors import DamagedError, InputError, M3etlError, RemoteError

interrupted_exit_code = 130  # 128 + SIGINT
broken_pipe_exit_code = 141  # 128 + SIGPIPE, what `head` causes in any other tool
internal_exit_code = 1

full_disk = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
not_writable = {errno.EROFS, errno.EACCES, errno.EPERM}
unreachable = {errno.ECONNREFUSED, errno.ECONNRESET, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ETIMEDOUT}


def report_failure(error: Exception, *, verbose: bool) -> int:
    """Write the message for `error` to standard error; returns the exit code."""
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return broken_pipe_exit_code
    known = explain(error)
    if known is None:
        return _report_internal(error, verbose)
    click.echo(f"error: {known.message}", err=True)
    if known.hint:
        click.echo(f"hint: {known.hint}", err=True)
    if verbose and known is not error:
        traceback.print_exception(error, file=sys.stderr)
    return known.exit_code


def explain(error: BaseException) -> M3etlError | None:
    """The error as one of ours where its cause is the user's machine or request; None for a bug."""
    if isinstance(error, M3etlError):
        return error
    if type(error).__module__ == "sqlite3":
        return _explain_sqlite(str(error))
    if isinstance(error, OSError) and error.errno is not None:
        return _explain_os(error)
    if isinstance(error, MemoryError):
        return InputError("the memory of this machine is full", hint="Use smaller batches or fewer workers.")
    return None


def _explain_os(error: OSError) -> M3etlError | None:
    where = f": {error.filename}" if error.filename else ""
    if error.errno in full_disk:
        return InputError(
            f"cannot write{where} ({error.strerror})",
            hint="Free some space and run the same command again; it goes on.",
        )
    if error.errno in not_writable:
        return InputError(
            f"cannot write or read{where} ({error.strerror})", hint="Check the owner and mode, or use `m3etl -C DIR`."
        )
    if error.errno in unreachable:
        return RemoteError(f"the connection failed ({error.strerror})", hint="Run the same command again; it goes on.")
    if error.errno == errno.EMFILE:
        return InputError("too many open files", hint="Raise the limit with `ulimit -n 4096` and run again.")
    return None


def _explain_sqlite(text: str) -> M3etlError | None:
    if "full" in text:
        return InputError(f"cannot write the ledger ({text})", hint="Free some space and run again.")
    if "readonly" in text or "unable to open" in text:
        return InputError(f"cannot write the ledger ({text})", hint="Make the campaign directory writable.")
    if "locked" in text:
        return InputError(
            "another m3etl process holds the ledger", hint="Wait for it to end, or stop it, and run again."
        )
    if "malformed" in text or "not a database" in text:
        return DamagedError(f"the ledger is damaged ({text})", hint="Restore ledger.sqlite from a copy.")
    return None


def _report_internal(error: Exception, verbose: bool) -> int:
    click.echo(f"error: m3etl {__version__} failed in a way it should not: {type(error).__name__}: {error}", err=True)
    if verbose:
        traceback.print_exception(error, file=sys.stderr)
        click.echo(
            "hint: this is a bug. Please report it with the traceback above and the command you typed.", err=True
        )
    else:
        click.echo("hint: this is a bug. Run the command again as `m3etl -v ...` and report what it prints.", err=True)
    return internal_exit_code
