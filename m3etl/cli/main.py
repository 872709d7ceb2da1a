"""The `m3etl` command: the group with its lazily loaded subcommands, and the way from any error to an exit code."""

from __future__ import annotations

import importlib
import logging
import os
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import click

from m3etl import __version__
from m3etl.cli.failures import interrupted_exit_code, report_failure
from m3etl.cli.options import CampaignPlace, Settings
from m3etl.errors import InputError
from m3etl.spec.spelling import did_you_mean

# Command name -> module of m3etl.cli that holds it as `command`, in the order of the work.
commands = {
    "demo": "demo",
    "doctor": "doctor",
    "regions": "regions",
    "modalities": "modalities",
    "sample": "sample",
    "export": "export",
    "status": "status",
    "tile": "tile",
    "normalize": "normalize",
    "describe": "describe",
    "preview": "preview",
    "validate": "validate",
    "pretrain": "pretrain",
    "evaluate": "evaluate",
    "embed": "embed",
    "upload-hf": "upload_hf",
    "emulator": "emulator",
}


reading_commands = ("describe",)  # those that take the URL of a data set in place of a campaign

# How long OpenMP's threads spin before they sleep, read when torch loads. Training 30 steps on two cores, idle and
# beside two busy programs: 14 s and 33 s; always asleep (PASSIVE) 18 s and 30 s; spinning as by default 13 s and far
# more than a minute.
short_spin = "10000"


class LazyGroup(click.Group):
    """A group that imports the module of a subcommand when that subcommand is asked for, or for its line of help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order of the work, not of the alphabet."""
        return list(commands)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, None if there is none."""
        if cmd_name not in commands:
            return None
        module = importlib.import_module(f"m3etl.cli.{commands[cmd_name]}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that is asked for; UsageError names the one that was meant."""
        name = args[0]
        if name not in commands and not name.startswith("-"):
            ctx.fail(f"No such command {name!r}{did_you_mean(name, commands)}.")
        return super().resolve_command(ctx, args)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "-C",
    "campaign",
    metavar="CAMPAIGN",
    type=CampaignPlace(file_okay=False, path_type=Path),
    default=Path("."),
    help="Directory of the campaign; the current directory by default. `describe` also takes the URL of a data set.",
)
@click.option("--json", "as_json", is_flag=True, help="Write the result as one JSON document.")
@click.option("-v", "--verbose", is_flag=True, help="Log more, and show the traceback of an internal error.")
@click.version_option(__version__, prog_name="m3etl")
@click.pass_context
def cli(context: click.Context, campaign: Path | str, as_json: bool, verbose: bool) -> None:
    """Aligned multi-modal Earth-observation data sets from Earth Engine, and models pretrained on them.

    Results go to standard output, progress and errors to standard error. A command first runs the earlier stages that
    a campaign lacks, and says so; only sample, export, tile, normalize and pretrain start a new campaign. Without an
    account, try `m3etl demo`, or set M3ETL_EE_URL=embedded.
    """
    url = campaign if isinstance(campaign, str) else ""
    if url and context.invoked_subcommand not in reading_commands:
        raise InputError(
            f"{context.invoked_subcommand} works in a campaign's directory and not at {url}",
            hint="`m3etl -C URL describe` says what a data set elsewhere holds; loaders read it from there, "
            "and a copy on this machine is as good as a campaign to them.",
        )
    directory = Path(".") if isinstance(campaign, str) else campaign
    context.obj = Settings(directory=directory, url=url, as_json=as_json, verbose=verbose)
    _quiet_libraries(verbose)


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit code. Nothing but the interpreter's own exit escapes from here."""
    try:
        result = cli.main(args=list(arguments), prog_name="m3etl", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Exit as exit_request:
        return exit_request.exit_code
    except click.ClickException as error:
        _with_suggestion(error).show(sys.stderr)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted: what is finished is kept; the same command goes on from there", err=True)
        return interrupted_exit_code
    except SystemExit as ended:
        if not ended.code:  # by Click itself, which has completed words for a shell
            raise
        return report_failure(BrokenPipeError(), verbose=False)  # by Click too: the reader went away, as `head` does
    except Exception as error:
        return report_failure(error, verbose=_is_verbose(arguments))
    return result if isinstance(result, int) else 0


def main() -> None:
    """Entry point of the console script."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", short_spin)
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(code)


def _with_suggestion(error: click.ClickException) -> click.ClickException:
    """The error with the value that was meant, where an option takes one of a list."""
    if not isinstance(error, click.BadParameter) or error.param is None:
        return error
    wrong = re.match(r"'(.*)' is not ", error.message)
    if wrong is None or not isinstance(error.param.type, click.Choice):
        return error
    meant = did_you_mean(wrong[1], map(str, error.param.type.choices))
    return click.BadParameter(error.message + meant, ctx=error.ctx, param=error.param, param_hint=error.param_hint)


def _is_verbose(arguments: Sequence[str]) -> bool:
    """Whether -v stands before the command, where the group takes it (-C takes the word that follows it)."""
    words = iter(arguments)
    for word in words:
        if word == "-C":
            next(words, None)
        elif not word.startswith("-"):
            return False
        elif word in ("-v", "--verbose"):
            return True
    return False


def _quiet_libraries(verbose: bool) -> None:
    """Warnings and log lines of the libraries are for developers: shown with -v or Python's own -W only."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.ERROR,
        format="%(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    if not verbose and not sys.warnoptions:
        warnings.simplefilter("ignore")


if __name__ == "__main__":
    main()
