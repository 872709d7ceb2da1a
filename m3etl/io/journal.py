"""Answers to planning questions on disk until what follows from them is in the ledger, so that a killed run does not
ask again. One JSON line each, appended durably; a torn last line is as if it had never come.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from m3etl.campaign import write_atomically
from m3etl.io.segments import sync_directory, unwritable
from m3etl.spec.scenes import Candidate

journal_name = "planning.jsonl"  # in the directory of the raw segments


class AnswerJournal:
    """The journal at `path`. Bounded by its user, who clears it when everything in it has been used."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[str, tuple[Candidate, ...]]:
        """All answers by key; lines that are not whole are left out."""
        if not self._path.exists():
            return {}
        found = {}
        for line in self._path.read_bytes().split(b"\n"):
            try:
                entry = json.loads(line)
                found[entry["key"]] = tuple(Candidate(**item) for item in entry["scenes"])
            except (ValueError, TypeError, KeyError):
                continue
        return found

    def append(self, answers: Mapping[str, Sequence[Candidate]]) -> None:
        """Durable when this returns. Raises InputError when the disk is full or read-only."""
        try:
            is_new = not self._path.exists()
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                file.write(_lines(answers))
                file.flush()
                os.fsync(file.fileno())
            if is_new:
                sync_directory(self._path.parent)
        except OSError as error:
            raise unwritable(self._path.parent, error) from error

    def keep(self, answers: Mapping[str, Sequence[Candidate]]) -> None:
        """Forget everything but these."""
        if answers:
            write_atomically(self._path, _lines(answers))
        else:
            self._path.unlink(missing_ok=True)


def question_key(place: str, *parts: Any) -> str:
    """The name of one question: the place and everything that its answer depends on."""
    return json.dumps([place, *parts], separators=(",", ":"))


def place_of(key: str) -> str:
    """The place that a key of `question_key` is about."""
    return str(json.loads(key)[0])


def _lines(answers: Mapping[str, Sequence[Candidate]]) -> bytes:
    lines = [
        json.dumps({"key": key, "scenes": [_plain(item) for item in scenes]}, separators=(",", ":"))
        for key, scenes in answers.items()
    ]
    # The newline in front ends whatever a killed run left unfinished.
    return ("\n" + "\n".join(lines) + "\n").encode()


_names = tuple(item.name for item in fields(Candidate))


def _plain(candidate: Candidate) -> dict[str, Any]:
    return {name: getattr(candidate, name) for name in _names}
