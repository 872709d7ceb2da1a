"""Whole answers: as the library reads them, sooner, and none outlasts its deadline however slowly it trickles."""

from __future__ import annotations

import gzip
import socket
import threading
import time
from contextlib import contextmanager

import pytest
import requests

from m3etl.io.transport import WholeAnswers


@contextmanager
def server(*pieces: bytes, pause_s: float = 0.0):
    """Answers every connection with these pieces of text, one after the other."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                connection.recv(65_536)
                try:
                    for piece in pieces:
                        connection.sendall(piece)
                        time.sleep(pause_s)
                except OSError:
                    continue

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()


@pytest.fixture
def http():
    seen = []
    with requests.Session() as session:
        session.trust_env = False
        session.mount("http://", WholeAnswers(connections=4, on_headers=seen.append))
        session.seen = seen
        yield session


def head(length: int, *more: str) -> bytes:
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {length}", *more]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


@pytest.mark.parametrize("length", [0, 1, 3_000_000])
def test_the_whole_body_is_there(http, length):
    body = bytes(range(256)) * (length // 256 + 1)
    with server(head(length, "X-Note: here"), body[:length]) as url:
        assert http.get(url, timeout=5).content == body[:length]
    assert http.seen[0]["x-note"] == "here"


def test_packed_and_chunked_bodies_are_unpacked(http):
    packed = gzip.compress(b"pixels" * 1000)
    chunk = f"{len(packed):x}\r\n".encode() + packed + b"\r\n0\r\n\r\n"
    start = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n\r\n"
    with server(start, chunk) as url:
        assert http.get(url, timeout=5).content == b"pixels" * 1000


def test_a_body_that_trickles_ends_at_the_deadline(http):
    with server(head(1000), *[b"x"] * 30, pause_s=0.03) as url:
        started = time.monotonic()
        with pytest.raises(requests.exceptions.Timeout, match="not complete within the deadline"):
            http.get(url, timeout=0.2)
        assert time.monotonic() - started < 0.6


def test_a_body_cut_short_is_an_error(http):
    with server(head(1000), b"x" * 400) as url, pytest.raises(requests.exceptions.ChunkedEncodingError):
        http.get(url, timeout=5)


def test_a_stream_is_left_to_the_reader(http):
    with server(head(6), b"pixels") as url, http.get(url, timeout=5, stream=True) as response:
        assert response.raw.read() == b"pixels"
