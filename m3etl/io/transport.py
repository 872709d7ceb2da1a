"""HTTP under the vendor's client: connections for all requests in flight, answers read in large pieces, one deadline
for a whole answer, and a look at the headers of every answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import DecodeError, HTTPError, ProtocolError, ReadTimeoutError

piece_bytes = 1 << 20


class WholeAnswers(HTTPAdapter):
    """Reads an answer whole before it is handed over. The client's own way takes 10 kB at a time, each with a turn at
    the interpreter's lock, and knows a deadline for every piece but none for the whole.
    """

    def __init__(self, *, connections: int, on_headers: Callable[[Mapping[str, str]], None]) -> None:
        super().__init__(pool_connections=4, pool_maxsize=connections)
        self._on_headers = on_headers

    def send(
        self, request: requests.PreparedRequest, stream: bool = False, timeout: Any = None, *others: Any, **more: Any
    ) -> requests.Response:
        """As the library's, with the answer's content in it unless it is to be streamed."""
        started = time.monotonic()
        response = super().send(request, stream, timeout, *others, **more)
        self._on_headers(response.headers)
        if not stream:
            deadline = started + timeout if isinstance(timeout, int | float) else None
            content: Any = _read(response, deadline)
            response._content = content
            response._content_consumed = True  # type: ignore[attr-defined]
        return response


def _read(response: requests.Response, deadline: float | None) -> bytes:
    # The errors are the ones that the library raises for the same troubles in its own reading.
    pieces = []
    try:
        while piece := response.raw.read1(piece_bytes, decode_content=True):
            pieces.append(piece)
            if deadline is not None and time.monotonic() > deadline:
                response.raw.close()
                raise requests.exceptions.ReadTimeout("the answer was not complete within the deadline")
    except ReadTimeoutError as error:
        raise requests.exceptions.ReadTimeout(error) from error
    except DecodeError as error:
        raise requests.exceptions.ContentDecodingError(error) from error
    except (ProtocolError, HTTPError) as error:
        raise requests.exceptions.ChunkedEncodingError(error) from error
    response.raw.release_conn()
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
