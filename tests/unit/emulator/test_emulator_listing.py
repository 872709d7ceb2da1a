"""Assets by name: descriptions, filter text as the client writes it, pages and views."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from fakes.embedded import ask, fake_server
from fakes.engine import FakeAssets, FakeEvaluator, fake_asset_json
from hypothesis import given, settings
from hypothesis import strategies as st

from m3etl.emulator.http_server import EmulatorServer
from m3etl.emulator.listing import asset_id, asset_name, list_assets, parse_filter, read_token, write_token
from m3etl.emulator.model import ServiceError

public = "/v1/projects/earthengine-public/assets"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatorServer]:
    with fake_server(tmp_path_factory.mktemp("state"), FakeEvaluator()) as running:
        yield running


def listed(**query: str) -> list[int]:
    """Numbers of the days that a listing gives, over all pages."""
    assets, found = FakeAssets(), []
    while True:
        page = list_assets(assets, "projects/earthengine-public/assets/FAKE/DAILY", query, fake_asset_json)
        found += [int(asset["properties"]["system:index"][1:]) for asset in page["assets"]]
        if "nextPageToken" not in page:
            return found
        query["pageToken"] = page["nextPageToken"]


def test_assets_of_every_kind_are_described(server: EmulatorServer) -> None:
    found = {
        name: ask(server, "GET", f"{public}/{name}") for name in ("FAKE", "FAKE/DAILY", "FAKE/DAILY/d003", "FAKE/TABLE")
    }
    assert [answer.json["type"] for answer in found.values()] == ["FOLDER", "IMAGE_COLLECTION", "IMAGE", "TABLE"]
    assert found["FAKE/DAILY"].json["properties"] == {"title": "Daily"}
    assert found["FAKE/TABLE"].json["id"] == "FAKE/TABLE"
    missing = ask(server, "GET", f"{public}/FAKE/NONE")
    assert missing.status == 404
    assert missing.message == "Asset 'FAKE/NONE' not found (does not exist or caller does not have access)."


def test_folders_and_collections_are_listed_in_pages(server: EmulatorServer) -> None:
    folder = ask(server, "GET", f"{public}/FAKE:listAssets").json
    assert folder["assets"][0] == {
        "type": "IMAGE_COLLECTION",
        "name": "projects/earthengine-public/assets/FAKE/DAILY",
        "id": "FAKE/DAILY",
    }
    first = ask(server, "GET", f"{public}/FAKE:listAssets?pageSize=1").json
    rest = ask(server, "GET", f"{public}/FAKE:listAssets?pageSize=1&pageToken={first['nextPageToken']}").json
    assert ([len(page["assets"]) for page in (first, rest)], "nextPageToken" in rest) == ([1, 1], False)
    query = urlencode({"pageSize": 2, "view": "BASIC", "filter": "properties.CLOUD<1"})
    page = ask(server, "GET", f"{public}/FAKE/DAILY:listAssets?{query}").json
    assert [asset["id"] for asset in page["assets"]] == ["FAKE/DAILY/d000", "FAKE/DAILY/d010"]
    assert set(page["assets"][0]) == {"type", "name", "id"}
    assert ask(server, "GET", f"{public}/FAKE/NONE:listAssets").status == 404
    assert ask(server, "GET", f"{public}/FAKE:listAssets?pageSize=-1").status == 400
    assert ask(server, "GET", f"{public}/FAKE:listAssets?pageToken=zzz").status == 400
    assert ask(server, "GET", "/v1/projects/some-project:listAssets").json == {"assets": []}


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("", range(60)),
        ('startTime >= "1970-01-11T00:00:00Z" AND endTime < "1970-01-14T00:00:00Z"', range(10, 13)),
        ('startTime >= "1970-01-11" AND startTime < "1970-01-14"', range(10, 13)),
        ('startTime > "1970-01-11T00:00:00Z" and startTime <= "1970-01-14T00:00:00Z"', range(11, 14)),
        ("intersects(\"{'type':'Point','coordinates':[20.5,40.5]}\")", [20]),
        ('intersects("POINT (20.5 40.5)")', [20]),
        (
            "intersects(\"{'type': 'Polygon', 'coordinates': [[[3.5, 40], [5.5, 40], [5.5, 41], [3.5, 40]]]}\")",
            [3, 4, 5],
        ),
        ("properties.CLOUD<2 AND properties.CLOUD >= 1", range(1, 60, 10)),
        ('properties.CLOUD != 3 AND properties.system:index = "d013"', []),
        ("properties.system:index = d012", [12]),
        ('properties."system:index" = "d012"', [12]),
        ("properties.MISSING = 1", []),
        ("properties.CLOUD = high", []),
        ("properties.system:index = 12", []),
    ],
)
def test_filters_are_understood_as_the_client_writes_them(text: str, days: Any) -> None:
    assert listed(filter=text) == list(days)


def test_filters_are_pushed_down_to_the_collection() -> None:
    assets = FakeAssets()
    text = 'startTime >= "1970-01-11T00:00:00Z" AND endTime < "1970-01-14T00:00:00Z" AND intersects("POINT (1 1)")'
    list_assets(assets, "FAKE/DAILY", {"filter": text}, fake_asset_json)
    query = assets.daily.queries[0]
    assert (query.start_ms, query.end_ms) == (10 * 86_400_000, 13 * 86_400_000)
    assert query.region is not None


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        "CLOUD < 3",
        "startTime >= yesterday",
        'intersects("circle")',
        "properties.A=1 properties.B=2",
        "AND",
        "=3",
    ],
)
def test_a_filter_that_is_not_understood_is_a_400(server: EmulatorServer, text: str) -> None:
    answer = ask(server, "GET", f"{public}/FAKE/DAILY:listAssets?{urlencode({'filter': text})}")
    assert answer.status == 400
    assert answer.message.startswith("Invalid filter")


@settings(max_examples=25)
@given(st.integers(1, 70), st.integers(0, 9))
def test_pages_join_to_the_whole(size: int, cloud: int) -> None:
    text = f"properties.CLOUD >= {cloud}"
    assert listed(filter=text, pageSize=str(size)) == listed(filter=text)


def test_features_of_a_table(server: EmulatorServer) -> None:
    page = ask(
        server, "GET", f"{public}/FAKE/TABLE:listFeatures?pageSize=2&{urlencode({'filter': 'properties.n > 0'})}"
    ).json
    assert [feature["properties"]["n"] for feature in page["features"]] == [1, 2]
    query = urlencode({"region": '{"type":"Point","coordinates":[3,3]}'})
    page = ask(server, "GET", f"{public}/FAKE/TABLE:listFeatures?{query}").json
    assert [feature["id"] for feature in page["features"]] == ["3"]
    assert "nextPageToken" not in page
    assert ask(server, "GET", f"{public}/FAKE/NONE:listFeatures").status == 404


@pytest.mark.parametrize(
    ("identifier", "name"),
    [
        ("COPERNICUS/S2/X", "projects/earthengine-public/assets/COPERNICUS/S2/X"),
        ("users/nlang/X", "projects/earthengine-legacy/assets/users/nlang/X"),
        ("projects/sat-io/open-datasets/X", "projects/earthengine-legacy/assets/projects/sat-io/open-datasets/X"),
        ("projects/my-project/assets/X", "projects/my-project/assets/X"),
    ],
)
def test_names_and_ids(identifier: str, name: str) -> None:
    assert asset_name(identifier) == name
    assert asset_id(name) == identifier


@given(st.integers(0, 10**9))
def test_tokens_round_trip(position: int) -> None:
    assert read_token(write_token(position)) == position


@given(st.text(max_size=40))
def test_any_filter_text_is_parsed_or_refused(text: str) -> None:
    with contextlib.suppress(ServiceError):
        assert parse_filter(text).keeps({}) in (True, False)
