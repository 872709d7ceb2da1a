"""A Hugging Face Hub in memory with the calls of `HfApi` that an upload needs; it can lose files and refuse a login."""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

large_bytes = 20_000  # from here on a file counts as large and has a sha256


@dataclass
class Large:
    size: int
    sha256: str


@dataclass
class Entry:
    path: str
    size: int
    blob_id: str
    lfs: Large | None


@dataclass
class Folder:
    path: str


class LocalTokenNotFoundError(OSError):
    """The client's own error has this name."""


@dataclass
class FakeHub:
    """lose: paths (patterns) that vanish on their way; logged_in; fail: raised by the next upload."""

    logged_in: bool = True
    lose: Sequence[str] = ()
    fail: Exception | None = None
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    tags: list[tuple[str, str]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)

    def whoami(self) -> Any:
        if not self.logged_in:
            raise LocalTokenNotFoundError("no token found")
        return {"name": "someone"}

    def create_repo(self, repo_id: str, *, repo_type: str, exist_ok: bool) -> Any:
        assert (repo_type, exist_ok) == ("dataset", True)
        self.repositories.setdefault(repo_id, {})

    def upload_folder(
        self,
        *,
        repo_id: str,
        repo_type: str,
        folder_path: str,
        path_in_repo: str,
        commit_message: str,
        ignore_patterns: Sequence[str],
    ) -> Any:
        assert repo_type == "dataset"
        self.calls.append(path_in_repo)
        if self.fail is not None:
            error, self.fail = self.fail, None
            raise error
        for file in sorted(Path(folder_path).rglob("*")):
            inside = file.relative_to(folder_path).as_posix()
            if not file.is_file() or any(fnmatch.fnmatch(inside, pattern) for pattern in ignore_patterns):
                continue
            path = f"{path_in_repo}/{inside}" if path_in_repo else inside
            if not any(fnmatch.fnmatch(path, pattern) for pattern in self.lose):
                self.repositories[repo_id][path] = file.read_bytes()

    def list_repo_tree(self, repo_id: str, *, repo_type: str, recursive: bool) -> Any:
        assert (repo_type, recursive) == ("dataset", True)
        yield Folder(path="chips.zarr")
        for path, content in self.repositories[repo_id].items():
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            large = Large(len(content), hashlib.sha256(content).hexdigest()) if len(content) >= large_bytes else None
            yield Entry(path=path, size=len(content), blob_id=blob, lfs=large)

    def create_tag(self, repo_id: str, *, repo_type: str, tag: str, exist_ok: bool) -> Any:
        assert exist_ok
        self.tags.append((repo_id, tag))
