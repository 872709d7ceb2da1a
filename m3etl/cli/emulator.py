"""`m3etl emulator`: the embedded Earth Engine as a server."""

from __future__ import annotations

from pathlib import Path

import click

from m3etl.cli.options import FiniteRange


@click.group("emulator")
def command() -> None:
    """The embedded Earth Engine as a server."""


@command.command("serve")
@click.option("--port", type=click.IntRange(0, 65535), default=8085, show_default=True, help="0: any free port.")
@click.option(
    "--archive",
    envvar="M3ETL_ARCHIVE",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Directory with archive.jsonl: real rasters over the made-up planet.  [env: M3ETL_ARCHIVE]",
)
@click.option("--latency-ms", type=FiniteRange(min=0), default=0.0, help="Delay of every answer in milliseconds.")
@click.option(
    "--faults", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="JSON script of failures to play."
)
@click.option("--log", type=click.Path(dir_okay=False, path_type=Path), help="Write one JSON line per request here.")
def serve(port: int, archive: Path | None, latency_ms: float, faults: Path | None, log: Path | None) -> None:
    """Serve on a loopback port until interrupted."""
    from m3etl.emulator.server import serve as serve_forever

    serve_forever(
        port=port,
        archive=archive,
        latency_ms=latency_ms,
        faults=faults,
        log=log,
        on_ready=lambda url: click.echo(f"serving the embedded Earth Engine at {url} (Ctrl-C ends it)"),
    )
