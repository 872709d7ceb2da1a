"""Rivals live in environments of their own, one for each group of requirements, made at first use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

folder = Path(__file__).parent


def rival_python(group: str) -> Path | None:
    """The interpreter of the environment with `requirements-GROUP.txt`; None, said aloud, where it can't be made."""
    requirements = folder / f"requirements-{group}.txt"
    home = folder.parent / f".bench-venv-{group}"
    python, stamp = home / "bin" / "python", home / ".installed"
    if stamp.exists() and stamp.stat().st_mtime >= requirements.stat().st_mtime:
        return python
    steps = (
        [sys.executable, "-m", "venv", str(home)],
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(requirements)],
    )
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"rivals of {group} are left out: {' '.join(done.stderr.strip().splitlines()[-1:])}", flush=True)
            return None
    stamp.touch()
    return python


def run_rival(python: Path, script: Path, *arguments: str, timeout_s: float = 900) -> Any:
    """What a rival's script prints as its last line (JSON). Raises CalledProcessError or TimeoutExpired."""
    environment = {**os.environ, "PYTHONPATH": str(folder.parent)}
    command = [str(python), str(script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=timeout_s, env=environment)
    return json.loads(done.stdout.strip().splitlines()[-1])
