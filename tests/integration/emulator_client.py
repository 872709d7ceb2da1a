"""The unmodified Earth Engine client, connected to an embedded server for the length of a test."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

with warnings.catch_warnings():
    # Google's library wants grpcio-status for messages of calls that nothing here makes.
    warnings.filterwarnings("ignore", "Please install grpcio-status", ImportWarning)
    import ee

project = "m3etl-embedded"


@contextmanager
def connected(url: str, *, retries: int = 0) -> Iterator[None]:
    """`ee` talks to the server at `url`; it starts and ends unconnected. Client retries are off unless asked for."""
    ee.Reset()
    # Initialize also opens a list of deprecated assets at storage.googleapis.com, without a timeout.
    with mock.patch("ee.deprecation._FetchDataCatalogStac", return_value={}):
        ee.Initialize(credentials=None, url=url, project=project)
    ee.data.setMaxRetries(retries)
    try:
        yield
    finally:
        session = ee.data._get_state().requests_session
        if session is not None:
            session.close()
        ee.Reset()
