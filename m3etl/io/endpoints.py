"""Files behind a URL, read by ranges: s3, gs, az, http(s) and the Hugging Face Hub through obstore, others by fsspec.

The login is the vendor's own: the environment and files that the tools of S3, Google and Azure use, `hf auth login`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Protocol
from urllib.parse import urlsplit

from m3etl.errors import AuthenticationError, InputError, MissingExtraError, RemoteError

patience = timedelta(seconds=120)  # for one request with all its retries
obstore_schemes = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "http", "https", "file")
retried_hint = "Run the same command again later; what was fetched is not lost while the process lives."


class Objects(Protocol):
    """Reading below one URL. Keys are relative; every method raises FileNotFoundError or RemoteError."""

    url: str

    def read(self, key: str) -> Any:
        """A whole file, as something with the buffer protocol."""
        ...

    def read_range(self, key: str, start: int, end: int) -> Any:
        """Bytes [start, end), fewer where the file ends before."""
        ...

    def read_tail(self, key: str, count: int) -> tuple[Any, int]:
        """The last `count` bytes (all of a shorter file), and the size of the file."""
        ...


def open_objects(url: str) -> Objects:
    """What lies below `url`; nothing is sent yet. InputError for a URL that can't be, MissingExtraError without obstore
    or fsspec."""
    scheme = urlsplit(url).scheme
    if scheme == "hf":
        return ObstoreObjects(url, _open_address(url, *_hub_address(url)))
    if scheme in obstore_schemes:
        return ObstoreObjects(url, _open_address(url, url, {}))
    return FsspecObjects(url)


class ObstoreObjects:
    """Objects of an open store of obstore, which retries what may pass; `url` is its name for people."""

    def __init__(self, url: str, store: Any) -> None:
        import obstore

        self.url = url
        self._obstore = obstore
        self._store = store

    def read(self, key: str) -> Any:
        """See `Objects`."""
        with self._answers(key):
            return self._obstore.get(self._store, key).bytes()

    def read_range(self, key: str, start: int, end: int) -> Any:
        """See `Objects`."""
        with self._answers(key):
            return self._obstore.get_range(self._store, key, start=start, end=end)

    def read_tail(self, key: str, count: int) -> tuple[Any, int]:
        """See `Objects`."""
        with self._answers(key):
            found = self._obstore.get(self._store, key, options={"range": {"suffix": count}})
            return found.bytes(), int(found.meta["size"])

    @contextmanager
    def _answers(self, key: str) -> Iterator[None]:
        from obstore.exceptions import BaseError

        try:
            yield
        except FileNotFoundError:
            raise
        except (BaseError, OSError, ValueError) as error:
            raise _translated(f"{self.url}/{key}", error) from error


class FsspecObjects:
    """Objects through fsspec, for every other scheme that it knows."""

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            from fsspec.core import url_to_fs
        except ImportError as error:
            raise _missing_extra(url) from error
        try:
            self._files, self._root = url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise InputError(
                f"cannot open {url}: {_first_line(error)}",
                hint="Use s3://, gs://, az://, hf://, https:// or another scheme of fsspec.",
            ) from error

    def read(self, key: str) -> Any:
        """See `Objects`."""
        with self._answers(key):
            return self._files.cat_file(f"{self._root}/{key}")

    def read_range(self, key: str, start: int, end: int) -> Any:
        """See `Objects`."""
        with self._answers(key):
            return self._files.cat_file(f"{self._root}/{key}", start=start, end=end)

    def read_tail(self, key: str, count: int) -> tuple[Any, int]:
        """See `Objects`."""
        with self._answers(key):
            path = f"{self._root}/{key}"
            size = int(self._files.info(path)["size"])
            return self._files.cat_file(path, start=max(size - count, 0), end=size), size

    @contextmanager
    def _answers(self, key: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _translated(f"{self.url}/{key}", error) from error


def _open_address(url: str, address: str, headers: dict[str, str]) -> Any:
    """The store of obstore for `url`, which is really answered at `address`."""
    try:
        from obstore.exceptions import BaseError
        from obstore.store import from_url
    except ImportError as error:
        raise _missing_extra(url) from error
    options: Any = {"timeout": "60s", "allow_http": urlsplit(address).scheme == "http"}
    if headers:
        options["default_headers"] = headers
    retries: Any = {"max_retries": 8, "retry_timeout": patience}
    is_file = urlsplit(address).scheme == "file"
    try:
        return from_url(address) if is_file else from_url(address, client_options=options, retry_config=retries)
    except (BaseError, ValueError) as error:
        hint = "Check the spelling of the URL."
        raise InputError(f"cannot open {url}: {_first_line(error)}", hint=hint) from error


def _hub_address(url: str) -> tuple[str, dict[str, str]]:
    """Where the Hub answers for hf://datasets/ORG/NAME[@REVISION]/folder, and the headers with the user's own login."""
    parts = url.removeprefix("hf://").strip("/").split("/")
    if len(parts) < 3 or parts[0] != "datasets" or not all(parts):
        raise InputError(
            f"{url!r} names no data set of the Hub", hint="Write it as hf://datasets/ORG/NAME or .../NAME@REVISION."
        )
    from m3etl.io.hub import download_address

    name, _, revision = parts[2].partition("@")
    address, headers = download_address(f"{parts[1]}/{name}", revision or "main")
    return "/".join([address, *parts[3:]]), headers


def _missing_extra(url: str) -> MissingExtraError:
    return MissingExtraError(
        f"reading {url} needs the packages obstore and fsspec", hint='Install them with: pip install "m3etl[remote]"'
    )


def _translated(where: str, error: Exception) -> RemoteError:
    text = _first_line(error)
    if isinstance(error, PermissionError) or type(error).__name__ in ("PermissionDeniedError", "UnauthenticatedError"):
        hint = "Log in with the tool of that service (for the Hub: `hf auth login`), then run the same command again."
        return AuthenticationError(f"not allowed to read {where}: {text}", hint=hint)
    return RemoteError(f"cannot read {where}: {text}", hint=retried_hint)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0][:300]
