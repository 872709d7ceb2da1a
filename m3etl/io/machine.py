"""What this machine offers: disk space, packages, accelerators, logins that exist, and whether an address answers."""

from __future__ import annotations

import http.client
import importlib.metadata
import os
import queue
import shutil
import ssl
import tempfile
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What an address said. status: HTTP status, 0 without an answer; reason: why there was none."""

    status: int
    reason: str = ""


def probe(url: str, *, timeout_s: float) -> Answer:
    """GET `url` once and read no body; answers within the timeout and never raises for what the network does."""
    answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
    # In a thread of its own: looking up a name has no timeout.
    threading.Thread(target=lambda: answers.put(_ask(url, timeout_s)), daemon=True).start()
    try:
        return answers.get(timeout=timeout_s)
    except queue.Empty:
        return Answer(status=0, reason="no answer in time")


def _ask(url: str, timeout_s: float) -> Answer:
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as response:
            return Answer(status=response.status)
    except urllib.error.HTTPError as error:
        return Answer(status=error.code, reason=str(error.reason))
    except urllib.error.URLError as error:
        return Answer(status=0, reason=_reason(error.reason))
    except (OSError, ValueError, http.client.HTTPException) as error:
        return Answer(status=0, reason=_reason(error))


def package_version(name: str) -> str:
    """Installed version of a distribution, "" where it is not installed. Imports nothing of it."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def free_bytes(directory: Path) -> int:
    """Free space on the disk of `directory`, or of its nearest parent that exists."""
    return shutil.disk_usage(_existing(directory)).free


def write_problem(directory: Path) -> str:
    """Why nothing can be written in `directory` (or in its nearest existing parent); "" where it can."""
    try:
        with tempfile.TemporaryFile(dir=_existing(directory)) as file:
            file.write(b"m3etl")
            file.flush()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def earthengine_login() -> str:
    """Where a login for Earth Engine lies (never what it says), "" without one."""
    home = Path(os.environ.get("HOME", str(Path.home())))
    if (home / ".config" / "earthengine" / "credentials").is_file():
        return "~/.config/earthengine/credentials"
    key = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    if key and Path(key).is_file():
        return "the file named by GOOGLE_APPLICATION_CREDENTIALS"
    gcloud = Path(os.environ.get("CLOUDSDK_CONFIG", home / ".config" / "gcloud"))
    if (gcloud / "application_default_credentials.json").is_file():
        return "the application default credentials of gcloud"
    return ""


def hub_login() -> bool:
    """Whether a token for the Hugging Face Hub lies on this machine."""
    from huggingface_hub import get_token

    return get_token() is not None


def accelerator() -> str:
    """Name of the CUDA device that torch sees, "" without one."""
    import torch

    return str(torch.cuda.get_device_name(0)) if torch.cuda.is_available() else ""


def _existing(directory: Path) -> Path:
    directory = directory.resolve()
    while not directory.is_dir():
        directory = directory.parent
    return directory


def _reason(error: object) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason}"
    return str(getattr(error, "strerror", None) or error)
