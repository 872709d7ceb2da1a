"""A remote file as a readable stream of range requests: blocks are fetched when read, kept in a small cache, and
redirects to a signed address are followed once and remembered.
"""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import urlsplit

import requests

from m3etl.errors import RemoteError

timeout_s = 60.0
attempts = 4
cached_blocks = 256


class RangeStream(io.RawIOBase):
    """Bytes of a URL, read-only and seekable. nbytes: bytes received so far, requests: how many went out."""

    def __init__(self, url: str, session: requests.Session, *, block_bytes: int) -> None:
        self._url = url
        self._session = session
        self._block_bytes = block_bytes
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._position = 0
        self.nbytes = 0
        self.requests = 0
        self._size = self._measure()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = origin + offset
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        wanted = min(len(buffer), max(0, self._size - self._position))
        if wanted <= 0:
            return 0
        first, last = self._position // self._block_bytes, (self._position + wanted - 1) // self._block_bytes
        self._fetch(first, last)
        start = self._position - first * self._block_bytes
        joined = b"".join(self._blocks[number] for number in range(first, last + 1))
        memoryview(buffer).cast("B")[:wanted] = joined[start : start + wanted]
        self._position += wanted
        while len(self._blocks) > cached_blocks:
            self._blocks.popitem(last=False)
        return wanted

    def _measure(self) -> int:
        answer = self._get(0, self._block_bytes - 1)
        total = answer.headers.get("Content-Range", "").rpartition("/")[2]
        if answer.status_code != 206 or not total.isdigit():
            raise RemoteError(
                f"{_public(self._url)} does not serve ranges (HTTP {answer.status_code})",
                hint="Download the file and name its path.",
            )
        self._blocks[0] = answer.content
        self._url = answer.url  # a redirect to a signed address is good for the next requests too
        return int(total)

    def _fetch(self, first: int, last: int) -> None:
        """Blocks first to last, missing neighbours in one request."""
        missing = [number for number in range(first, last + 1) if number not in self._blocks]
        for number in range(first, last + 1):
            if number in self._blocks:
                self._blocks.move_to_end(number)
        while missing:
            run = 1
            while run < len(missing) and missing[run] == missing[0] + run:
                run += 1
            start = missing[0] * self._block_bytes
            end = min(self._size, (missing[0] + run) * self._block_bytes)
            content = self._get(start, end - 1).content
            if len(content) != end - start:
                raise RemoteError(f"{_public(self._url)} sent {len(content)} bytes of {end - start}")
            for index in range(run):
                piece = content[index * self._block_bytes : (index + 1) * self._block_bytes]
                self._blocks[missing[0] + index] = piece
            missing = missing[run:]

    def _get(self, first: int, last: int) -> requests.Response:
        failure = ""
        for _ in range(attempts):
            try:
                answer = self._session.get(self._url, headers={"Range": f"bytes={first}-{last}"}, timeout=timeout_s)
            except requests.RequestException as error:
                failure = type(error).__name__
                continue
            self.requests += 1
            self.nbytes += len(answer.content)
            if answer.status_code in (401, 403):
                raise RemoteError(
                    f"{_public(self._url)} refused the login (HTTP {answer.status_code})",
                    hint="Put your Earthdata login into ~/.netrc (machine urs.earthdata.nasa.gov) and approve the "
                    "archive's application in your Earthdata profile.",
                )
            if answer.status_code < 500:
                return answer
            failure = f"HTTP {answer.status_code}"
        raise RemoteError(f"{_public(self._url)} did not answer: {failure}", hint="Try again later.")


def _public(url: str) -> str:
    """An address without its query, where signatures are."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}{parts.path}"


class _Session(requests.Session):
    """Keeps credentials on the host they belong to: a redirect elsewhere goes without the Authorization header, unless
    ~/.netrc has an entry for that host.
    """

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        before, after = urlsplit(response.request.url or ""), urlsplit(prepared_request.url or "")
        if before.hostname == after.hostname:
            return
        prepared_request.headers.pop("Authorization", None)
        login = requests.utils.get_netrc_auth(prepared_request.url or "")
        if login is not None:
            prepared_request.prepare_auth(login)


@contextmanager
def open_ranges(url: str, *, headers: Mapping[str, str], block_bytes: int) -> Iterator[RangeStream]:
    """A remote file for reading by ranges. RemoteError where it can't be."""
    with _Session() as session:
        session.headers.update(headers)
        stream = RangeStream(url, session, block_bytes=block_bytes)
        try:
            yield stream
        finally:
            stream.close()
