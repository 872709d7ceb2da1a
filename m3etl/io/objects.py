"""Cloud Storage: where batch exports land. Listing, a write test and deletion through obstore; pixels are read by
windows through GDAL, from the locations and with the settings that this module gives.

The login is the vendor's: what `earthengine authenticate` stored. A loopback Earth Engine is its own bucket server.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from m3etl.errors import AuthenticationError, InputError, M3etlError, MissingExtraError, RemoteError

if TYPE_CHECKING:
    from m3etl.io.earthengine import Session

embedded_bucket = "m3etl-embedded"
trial_name = "m3etl-doctor.txt"
public_url = "https://storage.googleapis.com"
_loopback_token = "loopback"  # any word: without one, a token would be asked of the network
_least_token_life = timedelta(minutes=10)
_bucket_name = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")  # https://cloud.google.com/storage/docs/buckets
_answer = re.compile(r"status code: (\d{3})[^:]*: *(.*)", re.DOTALL)  # as obstore words what a server said


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketPlace:
    """A place in Cloud Storage: bucket, and a prefix that is "" or ends in a slash."""

    name: str
    prefix: str = ""

    @property
    def url(self) -> str:
        """gs://NAME/PREFIX."""
        return f"gs://{self.name}/{self.prefix}".rstrip("/")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """An object of a bucket: its whole name and its size in bytes."""

    name: str
    nbytes: int


def parse_bucket(text: str) -> BucketPlace:
    """`gs://NAME`, `gs://NAME/prefix` or `NAME/prefix`; InputError for anything else."""
    name, _, prefix = text.removeprefix("gs://").partition("/")
    parts = [part for part in prefix.split("/") if part]
    if not _bucket_name.fullmatch(name) or "://" in text.removeprefix("gs://") or {".", ".."} & set(parts):
        raise InputError(f"{text!r} is no place in Cloud Storage", hint="Write it as gs://NAME or gs://NAME/prefix.")
    return BucketPlace(name=name, prefix="".join(f"{part}/" for part in parts))


class Bucket:
    """An open bucket. Every method raises InputError where there is no such bucket, AuthenticationError without a
    valid login, RemoteError where the server refuses or does not answer.
    """

    def __init__(self, store: Any, place: BucketPlace, base_url: str, token: Callable[[], str]) -> None:
        self._store = store
        self.place = place
        self._base_url = base_url
        self._token = token

    def write(self, name: str, content: bytes) -> None:
        """Store a small object below the prefix."""
        import obstore

        with self._errors(f"write {name}"):
            obstore.put(self._store, f"{self.place.prefix}{name}", content, use_multipart=False)

    def objects(self, folder: str) -> list[StoredObject]:
        """The objects of one folder below the prefix, by name."""
        import obstore

        prefix = f"{self.place.prefix}{folder}"
        with self._errors(f"list {folder}"):
            try:
                pages = list(obstore.list(self._store, prefix=prefix))
            except obstore.exceptions.GenericError as error:
                if _status_of(error)[0]:
                    raise
                # obstore asks again where no answer began; one that was cut off it leaves to us.
                pages = list(obstore.list(self._store, prefix=prefix))
        found = [StoredObject(name=str(item["path"]), nbytes=int(item["size"])) for page in pages for item in page]
        return sorted(found, key=lambda item: item.name)

    def delete(self, names: Sequence[str]) -> None:
        """Delete objects by their whole names; one that is gone already is no error."""
        import obstore

        for name in names:
            with self._errors(f"delete {name}"), contextlib.suppress(FileNotFoundError):
                obstore.delete(self._store, name)

    def location(self, name: str) -> str:
        """Where an object is read."""
        return f"{self._base_url}/{self.place.name}/{quote(name)}"

    def reading_options(self) -> Mapping[str, str]:
        """GDAL settings to read with; they hold a token, which lasts for some minutes at least."""
        with self._errors("read"):
            return {"GDAL_HTTP_HEADERS": f"Authorization: Bearer {self._token()}"}

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        from obstore.exceptions import BaseError

        try:
            yield
        except (BaseError, OSError) as error:
            raise self._translated(what, error) from error
        except Exception as error:
            if not type(error).__module__.startswith("google.auth"):
                raise
            raise self._login_error(what, str(error)) from error

    def _translated(self, what: str, error: Exception) -> M3etlError:
        status, text = _status_of(error)
        if status == 404:
            return InputError(
                f"there is no bucket {self.place.url} (asked to {what}): {text}",
                hint="Make it with `gcloud storage buckets create gs://NAME --location=US`, or name another one with "
                "--bucket.",
            )
        if status == 401 or "token request" in text:
            return self._login_error(what, text)
        if status == 403:
            return RemoteError(
                f"no permission to {what} in {self.place.url}: {text}",
                hint="Your account needs the role Storage Object Admin on the bucket; then run the same command again.",
            )
        return RemoteError(
            f"cannot {what} in {self.place.url}: {text}", hint="Run the same command again later; nothing is lost."
        )

    def _login_error(self, what: str, text: str) -> AuthenticationError:
        return AuthenticationError(
            f"the login for Cloud Storage was rejected (asked to {what} in {self.place.url}): {text}",
            hint="Log in again with `earthengine authenticate`, then run the same command; nothing landed is lost.",
        )


def open_bucket(place: BucketPlace, session: Session, *, deadline_s: float = 60.0) -> Bucket:
    """The bucket with the session's login; nothing is sent yet. MissingExtraError without obstore."""
    try:
        from obstore.store import GCSStore
    except ImportError as error:
        raise MissingExtraError(
            "the client of Cloud Storage is not installed", hint="Install it with `pip install 'm3etl[ee]'`."
        ) from error
    base_url = session.url or public_url
    token = _Token(session)
    store = GCSStore(
        place.name,
        base_url=base_url,
        client_options={"allow_http": session.local, "timeout": f"{deadline_s:.0f}s"},
        retry_config={"max_retries": 5, "retry_timeout": timedelta(seconds=deadline_s)},
        credential_provider=token.credential,
    )
    return Bucket(store, place, base_url, lambda: str(token.credential()["token"]))


def try_bucket(place: BucketPlace, *, url: str, deadline_s: float) -> None:
    """List, write and delete a small object there, as exports do. url: the Earth Engine, "" for the real service.

    Raises what the methods of `Bucket` raise; its message says which of them was refused.
    """
    from m3etl.io.earthengine import Session, is_loopback, load_client

    local = bool(url) and is_loopback(url)
    session = Session(api=load_client(), url=url.rstrip("/"), project="", embedded=False, local=local)
    bucket = open_bucket(place, session, deadline_s=deadline_s)
    bucket.objects("")
    bucket.write(trial_name, b"written and deleted by m3etl doctor")
    bucket.delete([f"{place.prefix}{trial_name}"])


class _Token:
    """Bearer tokens of the vendor's login, renewed before they end."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._credentials: Any = None

    def credential(self) -> Any:
        if self._session.local:
            return {"token": _loopback_token, "expires_at": None}
        from google.auth.transport.requests import Request

        if self._credentials is None:
            self._credentials = self._session.api.data.get_persistent_credentials()
        if self._expiry() - datetime.now(UTC) < _least_token_life:
            self._credentials.refresh(Request())
        return {"token": self._credentials.token, "expires_at": self._expiry()}

    def _expiry(self) -> datetime:
        found = self._credentials.expiry if self._credentials.token else None
        return datetime.min.replace(tzinfo=UTC) if found is None else found.replace(tzinfo=UTC)


def _status_of(error: Exception) -> tuple[int, str]:
    """The HTTP status behind an error of obstore, 0 where there was no answer, and the words that matter."""
    text = str(error).split("\n\nDebug source", 1)[0]
    answer = _answer.search(text)
    if answer is None:
        return (404 if isinstance(error, FileNotFoundError) else 0), " ".join(text.split())[:300]
    return int(answer.group(1)), f"HTTP {answer.group(1)}: {' '.join(answer.group(2).split())[:200]}"
