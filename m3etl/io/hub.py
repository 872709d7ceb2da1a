"""The Hugging Face Hub, the only place that knows it: login, resumable upload of folders, what arrived, addresses."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from m3etl.errors import AuthenticationError, InputError, MissingExtraError, RemoteError

# https://huggingface.co/docs/hub/repositories-recommendations
max_files_per_repository = 100_000
max_entries_per_folder = 10_000
max_file_bytes = 500 * 10**9

_name_part = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
max_repository_name = 96


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """One file as the Hub has it. sha256: of files kept as large files; git_sha1: of those that lie in git."""

    size: int
    sha256: str = ""
    git_sha1: str = ""


class HubApi(Protocol):
    """The calls of `huggingface_hub.HfApi` that an upload needs."""

    def whoami(self) -> Any: ...

    def create_repo(self, repo_id: str, *, repo_type: str, exist_ok: bool) -> Any: ...

    def upload_folder(
        self,
        *,
        repo_id: str,
        repo_type: str,
        folder_path: str,
        path_in_repo: str,
        commit_message: str,
        ignore_patterns: list[str],
    ) -> Any: ...

    def list_repo_tree(self, repo_id: str, *, repo_type: str, recursive: bool) -> Any: ...

    def create_tag(self, repo_id: str, *, repo_type: str, tag: str, exist_ok: bool) -> Any: ...


def check_repository(name: str) -> str:
    """`name` if it is a valid ORG/NAME of the Hub; InputError says what is wrong with it."""
    parts = name.split("/")
    problem = ""
    if not name:
        problem = "no repository is named"
    elif len(parts) != 2:
        problem = f"{name!r} is not of the form ORG/NAME"
    elif len(name) > max_repository_name:
        problem = f"{name!r} is longer than {max_repository_name} characters"
    elif not all(_name_part.fullmatch(part) for part in parts):
        problem = f"{name!r} may hold letters, digits, '-', '_' and '.' only, and starts with a letter or digit"
    elif any("--" in part or ".." in part or part.endswith((".", "-", ".git")) for part in parts):
        problem = f"{name!r} may not hold '--' or '..', nor end with '.', '-' or '.git'"
    if problem:
        raise InputError(problem, hint="Use --repo ORG/NAME, or set repo under [hub] in campaign.toml.")
    return name


def open_hub(endpoint: str | None = None) -> HubApi:
    """The client with the user's own login; AuthenticationError without one, MissingExtraError without the package."""
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise MissingExtraError(
            "uploading needs the package huggingface_hub", hint='Install it with: pip install "m3etl[hub]"'
        ) from error
    api: HubApi = HfApi(endpoint=endpoint, library_name="m3etl")
    check_login(api)
    return api


def download_address(repository: str, revision: str) -> tuple[str, dict[str, str]]:
    """URL below which the files of a data set lie, and headers with the user's own login, if there is one."""
    try:
        from huggingface_hub import constants, get_token
    except ImportError as error:
        raise MissingExtraError(
            "reading from the Hub needs the package huggingface_hub", hint='Install it with: pip install "m3etl[hub]"'
        ) from error
    token = get_token()
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return f"{constants.ENDPOINT}/datasets/{repository}/resolve/{revision}", headers


def check_login(api: HubApi) -> None:
    """Nothing where the Hub knows the user; AuthenticationError (exit code 4) where it does not."""
    with _remote("check the login"):
        api.whoami()


def create_repository(api: HubApi, repository: str) -> None:
    """The data set repository exists afterwards."""
    with _remote(f"create {repository}"):
        api.create_repo(repository, repo_type="dataset", exist_ok=True)


def upload_folder(api: HubApi, repository: str, folder: Path, inside: str, message: str) -> None:
    """Upload every file of `folder` to `inside` of the repository; the client skips what is there already."""
    with _remote(f"upload {inside or 'the card'} to {repository}"):
        api.upload_folder(
            repo_id=repository,
            repo_type="dataset",
            folder_path=str(folder),
            path_in_repo=inside,
            commit_message=message,
            ignore_patterns=[".*", "**/.*"],
        )


def list_remote_files(api: HubApi, repository: str) -> Mapping[str, RemoteFile]:
    """Path -> size and checksum of every file in the repository."""
    with _remote(f"list {repository}"):
        entries = list(api.list_repo_tree(repository, repo_type="dataset", recursive=True))
    return {entry.path: _remote_file(entry) for entry in entries if hasattr(entry, "size")}


def tag_revision(api: HubApi, repository: str, tag: str) -> None:
    """Mark what is there now with `tag`; an equal tag stays."""
    with _remote(f"tag {repository}"):
        api.create_tag(repository, repo_type="dataset", tag=tag, exist_ok=True)


def _remote_file(entry: Any) -> RemoteFile:
    large = getattr(entry, "lfs", None)
    if large is not None:
        return RemoteFile(size=large.size, sha256=large.sha256)
    return RemoteFile(size=entry.size, git_sha1=entry.blob_id)


@contextlib.contextmanager
def _remote(action: str) -> Iterator[None]:
    """Errors of the client and of the network become ours; anything else is a bug and passes."""
    try:
        yield
    except Exception as error:
        if not _is_remote(error):
            raise
        raise _remote_error(error, action) from error


def _is_remote(error: Exception) -> bool:
    """The client's classes differ between its versions (requests, httpx, httpx2), so they go by module."""
    modules = {"httpx", "httpx2", "requests", "huggingface_hub", "hf_xet"}
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in modules


def _remote_error(error: Exception, action: str) -> RemoteError:
    status = getattr(getattr(error, "response", None), "status_code", None)
    text = str(error).strip().partition("\n")[0] or type(error).__name__
    if status in (401, 403) or "Token" in type(error).__name__:
        return AuthenticationError(
            f"cannot {action}: the Hugging Face Hub does not accept the login ({text})",
            hint="Log in with `hf auth login` (a token with write access), then run the same command again.",
        )
    return RemoteError(
        f"cannot {action}: {text}", hint="Run the same command again; files that have arrived are not sent again."
    )
