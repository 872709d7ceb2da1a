"""Tasks that tests hand to workers; they must be importable there."""

from __future__ import annotations

import os
import time
from pathlib import Path

from m3etl.errors import DamagedError


def square(number: int) -> int:
    return number * number


def where(number: int) -> tuple[int, int]:
    time.sleep(0.05)
    return number, os.getpid()


def refuse(number: int) -> int:
    raise DamagedError(f"chip {number} is damaged", hint="Restore it.")


def note_and_wait(folder: str, number: int) -> int:
    """Leaves a file named after the process that began it, then takes a while."""
    Path(folder, f"{number}-{os.getpid()}").touch()
    time.sleep(0.3)
    return number
