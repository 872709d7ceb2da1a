"""The embedded Earth Engine as a child process that ends with its parent, however the parent ends."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO

from m3etl.errors import InputError, RemoteError

_ready_timeout_s = 60.0
_stop_timeout_s = 10.0


class EmbeddedServer:
    """A running child server. Stop it with `stop` or by leaving its context; it also ends with this process."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, resources: contextlib.ExitStack) -> None:
        self.url = url
        self._process = process
        self._resources = resources

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return self._process.pid

    def stop(self) -> None:
        """Ends the server; running exports go on at the next start with the same state directory."""
        _close(self._process.stdin)
        try:
            self._process.wait(_stop_timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._resources.close()
        atexit.unregister(self.stop)

    def __enter__(self) -> EmbeddedServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def start_embedded(
    *,
    state_dir: Path | None = None,
    archive: Path | None = None,
    latency_ms: float = 0,
    faults: Path | None = None,
    log: Path | None = None,
) -> EmbeddedServer:
    """Starts a server on a free loopback port and returns once it answers.

    Operations and exported files live in `state_dir` (without it they are gone when the server stops), where the file
    `emulator.stderr` holds what the server complains about. The child ends when this process ends, even when killed:
    the pipe to its standard input closes, and it watches its parent's id besides.

    Raises InputError for a bad archive, faults file or directory, RemoteError when the server does not come up.
    """
    with contextlib.ExitStack() as stack:
        if state_dir is None:
            directory = tempfile.TemporaryDirectory(prefix="m3etl-emulator-", ignore_cleanup_errors=True)
            state_dir = Path(stack.enter_context(directory))
        try:
            state_dir.mkdir(parents=True, exist_ok=True)
            errors = stack.enter_context((state_dir / "emulator.stderr").open("w+b"))
        except OSError as error:
            raise InputError(
                f"Cannot use the state directory {state_dir}: {error.strerror}.",
                hint="The embedded Earth Engine keeps its operations there: make it writable, or free some space.",
            ) from None
        options = {"archive": archive, "faults": faults, "log": log, "latency-ms": latency_ms or None}
        command = _command(state_dir, {key: str(value) for key, value in options.items() if value is not None})
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=_environment()
        )
        server = EmbeddedServer(process, _read_url(process, errors), stack.pop_all())
    atexit.register(server.stop)
    return server


def _command(state_dir: Path, options: Mapping[str, str]) -> list[str]:
    # -P: a package of the same name in the current directory must not shadow ours.
    command = [sys.executable, "-P", "-m", "m3etl.emulator", "--embedded", "--state-dir", str(state_dir)]
    return command + [f"--{name}={value}" for name, value in options.items()]


def _environment() -> dict[str, str]:
    package_root = str(Path(__file__).resolve().parents[2])
    paths = [package_root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


def _read_url(process: subprocess.Popen[bytes], errors: IO[bytes]) -> str:
    """The URL from the one line that the child prints when it is ready."""
    lines: list[bytes] = []
    output = process.stdout
    if output is None:
        raise RemoteError("The embedded Earth Engine has no output to read.")
    reader = threading.Thread(target=lambda: lines.append(output.readline()), daemon=True)
    reader.start()
    reader.join(_ready_timeout_s)
    if not lines or not lines[0]:
        _close(process.stdin)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_stop_timeout_s)
        if process.poll() is None:
            process.kill()
            process.wait()
        reader.join()
        output.close()
        errors.seek(0)
        text = errors.read().decode(errors="replace").strip()
        if process.returncode == InputError.exit_code:
            raise InputError(text.removeprefix("Error: "))
        raise RemoteError(f"The embedded Earth Engine did not start (exit code {process.returncode}):\n{text[-2000:]}")
    output.close()
    return str(json.loads(lines[0])["url"])


def _close(pipe: IO[bytes] | None) -> None:
    if pipe is not None:
        with contextlib.suppress(OSError):
            pipe.close()


def watch_parent(stop: threading.Event, *, interval_s: float = 0.5, grace_s: float = 3.0) -> None:
    """In the child: sets `stop` once standard input closes or the parent is gone, and exits hard after the grace."""
    parent = os.getppid()

    def end() -> None:
        stop.set()
        timer = threading.Timer(grace_s, os._exit, args=(0,))
        timer.daemon = True
        timer.start()

    def wait_for_input() -> None:
        # The descriptor and not sys.stdin: a thread that blocks inside its lock would hang the interpreter's exit.
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                continue
        end()

    def poll_parent() -> None:
        while not stop.wait(interval_s):
            if os.getppid() != parent:
                end()

    threading.Thread(target=wait_for_input, daemon=True).start()
    threading.Thread(target=poll_parent, daemon=True).start()
