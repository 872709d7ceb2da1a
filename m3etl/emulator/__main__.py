"""`python -m m3etl.emulator`: the embedded Earth Engine as a process; prints one JSON line with its URL when ready."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from m3etl.errors import InputError


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves until interrupted; returns the exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    if options.embedded:
        # Ctrl-C at a terminal reaches the whole group; the parent decides when its server ends.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        from m3etl.emulator.process import watch_parent

        watch_parent(stop)
    try:
        from m3etl.emulator.server import serve

        serve(
            host=options.host,
            port=options.port,
            archive=options.archive,
            state_dir=options.state_dir,
            latency_ms=options.latency_ms,
            faults=options.faults,
            log=options.log,
            on_ready=_announce,
            until=stop,
        )
    except InputError as error:
        sys.stderr.write(f"Error: {error}\n")
        return error.exit_code
    return 0


def _announce(url: str) -> None:
    sys.stdout.write(json.dumps({"url": url}) + "\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m m3etl.emulator", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="loopback address to listen on")
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0 takes a free one")
    parser.add_argument("--archive", type=Path, help="directory of real rasters with an archive.jsonl")
    parser.add_argument("--state-dir", type=Path, help="where operations and exported files are kept")
    parser.add_argument("--latency-ms", type=float, default=0.0, help="least time of a request in milliseconds")
    parser.add_argument("--faults", type=Path, help="JSON file with scripted faults, gates and a latency model")
    parser.add_argument("--log", type=Path, help="file to which one JSON line per request is appended")
    parser.add_argument("--embedded", action="store_true", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
