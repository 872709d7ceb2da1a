"""Fixtures of the evaluator's tests: the client is initialised once per module, the assets are fresh for every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fakes import ee_in_process
from tests.unit.emulator.evaluating import Session


@pytest.fixture(scope="module")
def transport() -> Iterator[ee_in_process.Transport]:
    with ee_in_process.client() as made:
        yield made


@pytest.fixture
def session(transport: ee_in_process.Transport) -> Session:
    return Session(transport)
