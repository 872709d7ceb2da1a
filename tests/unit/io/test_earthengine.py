"""The session: opened with the real client, every failure of the wire becomes one kind, and logins are asked for in
words.
"""

from __future__ import annotations

import json
import socket

import pytest
from fakes.scenery import Scene, session_over
from google.auth.exceptions import RefreshError, TransportError

from m3etl.errors import AuthenticationError, InputError, MissingExtraError, RemoteError
from m3etl.io.earthengine import is_loopback, open_session, profile_total_s, read_ecoregions, translated
from m3etl.io.outcomes import Kind, RequestFailed

image = Scene("COPERNICUS/S2_SR_HARMONIZED/x", {"B4": ("uint16", lambda x, y: 0 * x + 7)})

answers = [
    ({"status": 429}, Kind.RATE),
    ({"status": 503}, Kind.CAPACITY),
    ({"status": 500}, Kind.TRANSIENT),
    ({"status": 504, "html": "<html>Gateway timeout</html>"}, Kind.TRANSIENT),
    ({"status": 401}, Kind.AUTH),
    ({"status": 403}, Kind.AUTH),
    ({"status": 400, "message": "User memory limit exceeded."}, Kind.TOO_LARGE),
    ({"status": 400, "message": "Unknown function"}, Kind.DETERMINISTIC),
    ({"html": "<html>please log in</html>"}, Kind.TRANSIENT),
    ({"drop": True}, Kind.NETWORK),
    ({"truncate": True}, Kind.NETWORK),
    ({"delay_ms": 1200}, Kind.DEADLINE),
]


@pytest.mark.parametrize(("action", "kind"), answers, ids=lambda item: str(item).replace(" ", ""))
def test_each_failure_of_a_planning_request_has_its_kind(tmp_path, action, kind):
    faults = {"rules": [{"path": "value:compute", "calls": {"first": 1}, **action}]}
    with session_over([image], tmp_path, faults=faults) as session:
        session.api.data.setDeadline(600)
        with pytest.raises(RequestFailed) as caught:
            session.compute_value(session.api.Number(1).add(1))
        assert caught.value.failure.kind is kind, caught.value.failure
        assert session.compute_value(session.api.Number(1).add(1)) == 2, "one fault, one failure: no hidden retries"


def test_retry_after_reaches_the_failure(tmp_path):
    faults = {"rules": [{"path": "value:compute", "status": 429, "headers": {"Retry-After": "3"}}]}
    with session_over([image], tmp_path, faults=faults) as session, pytest.raises(RequestFailed) as caught:
        session.compute_value(session.api.Number(1).add(1))
    assert caught.value.failure.retry_after_s == 3.0
    assert caught.value.failure.status == 429


def test_a_profile_says_what_a_call_has_cost(tmp_path):
    with session_over([image], tmp_path) as session:
        number = session.api.Number(1)
        with session.profiled() as ids:
            session.compute_value(number.add(1))
            session.compute_value(number.add(2))
        session.compute_value(number.add(3))
        assert len(ids) == 2
        assert 0 <= session.eecu_seconds(ids[0]) < 1
        assert session.requests == 4


def test_the_rows_of_a_profile_add_up():
    text = (
        " EECU·s PeakMem  Count  Description\n  0.072     47k     44  (plumbing)\n"
        "  1.500    124k     14  Algorithm Image.reduceRegion\n      -     59k     12  Loading assets: A/B\n"
    )
    assert profile_total_s(text) == pytest.approx(1.572)
    with pytest.raises(RequestFailed, match="not what was asked for"):
        profile_total_s("<html>busy</html>")


def test_restricted_mode_is_noticed_without_a_warning(tmp_path):
    headers = {"x-earth-engine-quota-status": "parallelism_restricted=true"}
    faults = {"rules": [{"path": "value:compute", "headers": headers, "calls": {"after": 1}}]}
    with session_over([image], tmp_path, faults=faults) as session:
        session.compute_value(session.api.Number(1))
        assert not session.restricted
        session.compute_value(session.api.Number(1))
        assert session.restricted


def test_an_encoded_expression_is_sent_as_the_client_sends_its_own(tmp_path, monkeypatch):
    with session_over([image], tmp_path) as session:
        bodies = []
        plain = session.api.data._execute_cloud_call
        monkeypatch.setattr(
            session.api.data, "_execute_cloud_call", lambda call: bodies.append(vars(call)) or plain(call)
        )
        number = session.api.Number(20).add(22)
        text = json.dumps(session.api.serializer.encode(number, for_cloud_api=True))
        assert session.compute_value(number) == session.compute_value(text) == 42
        for name in ("uri", "method", "body", "body_size", "headers"):
            assert bodies[0][name] == bodies[1][name], name


def test_pixels_come_as_bytes_and_pages_as_features(tmp_path):
    grid = {
        "dimensions": {"width": 2, "height": 2},
        "affineTransform": {"scaleX": 10, "translateX": 500_000, "scaleY": -10, "translateY": 5_300_000},
        "crsCode": "EPSG:32632",
    }
    with session_over([image], tmp_path) as session:
        request = {"expression": session.api.Image(image.id), "fileFormat": "NPY", "grid": grid, "workloadTag": "t"}
        assert session.compute_pixels(request).startswith(b"\x93NUMPY")
        collection = session.api.FeatureCollection(
            [
                session.api.Feature(session.api.Geometry.Point([1, number / 100]), {"n": number})
                for number in range(1500)
            ]
        )
        assert [item["properties"]["n"] for item in session.compute_features(collection)] == list(range(1500))
        assert session.requests == 3
        assert session.local
        assert not session.embedded


def test_a_missing_table_is_a_remote_error_with_a_way_out(tmp_path):
    with session_over([image], tmp_path) as session, pytest.raises(RemoteError, match="RESOLVE") as caught:
        read_ecoregions(session)
    assert "--ecoregions" in caught.value.hint


def test_nobody_listening_is_said_at_once():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(RemoteError, match="cannot reach"), open_session(url=f"http://127.0.0.1:{port}", project=""):
        pass


def test_without_a_login_both_ways_out_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    with pytest.raises(AuthenticationError) as caught, open_session(url="", project="my-project-1"):
        pass
    assert "earthengine authenticate" in caught.value.hint
    assert "--ee-url embedded" in caught.value.hint


logins = [
    (TransportError("network is unreachable"), Kind.NETWORK, RemoteError),
    (RefreshError("try later", retryable=True), Kind.NETWORK, RemoteError),
    (RefreshError("the token was revoked"), Kind.AUTH, AuthenticationError),
]


@pytest.mark.parametrize(("error", "kind", "raised"), logins, ids=str)
def test_a_login_that_could_not_be_renewed_is_no_rejected_login(monkeypatch, error, kind, raised):
    import ee

    with pytest.raises(RequestFailed) as caught, translated(ee):
        raise error
    assert caught.value.failure.kind is kind

    def initialize(**options):
        raise error

    monkeypatch.setattr(ee, "Initialize", initialize)
    with pytest.raises(raised) as refused, open_session(url="", project="my-project-1"):
        pass
    assert type(refused.value) is raised


def test_pixels_and_questions_have_an_endpoint_each(monkeypatch, tmp_path):
    import ee

    with session_over([image], tmp_path) as session:
        opened = []

        def initialize(url, project):
            opened.append(url)
            state.cloud_api_resource, state.cloud_api_resource_raw = f"questions at {url}", f"pixels at {url}"

        state = ee.data._get_state()
        monkeypatch.setattr(ee, "Initialize", initialize)
        session.use_high_volume()
        assert opened == [], "a server of one's own has one address"
        session.url = ""
        session.use_high_volume()
        session.use_high_volume()
        assert opened == [ee.data.HIGH_VOLUME_API_BASE_URL, ee.data.DEFAULT_CLOUD_API_BASE_URL]
        sent = []

        class Resource:
            def __init__(self, name):
                self.name = name

            def __getattr__(self, part):
                return lambda **options: sent.append((self.name, part)) or self

        session._pixels = Resource(session._pixels)
        state.cloud_api_resource = Resource(state.cloud_api_resource)
        monkeypatch.setattr(
            ee.data, "_execute_cloud_call", lambda call: b'{"result": 1}' if "quest" in call.name else b""
        )
        session.compute_pixels("{}")
        session.compute_value("{}")
        assert ("pixels at https://earthengine-highvolume.googleapis.com", "computePixels") in sent
        assert ("questions at https://earthengine.googleapis.com", "compute") in sent


def test_a_missing_client_names_the_pip_command(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ee", None)
    with pytest.raises(MissingExtraError, match="not installed") as caught, open_session(url="", project=""):
        pass
    assert "pip install" in caught.value.hint


def test_an_archive_needs_the_embedded_service(tmp_path):
    with (
        pytest.raises(InputError, match="embedded"),
        open_session(url="http://127.0.0.1:1", project="", archive=tmp_path),
    ):
        pass


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://127.0.0.1:80", True),
        ("http://localhost:1", True),
        ("http://[::1]:1", True),
        ("https://earthengine.googleapis.com", False),
        ("http://10.0.0.1", False),
    ],
)
def test_only_this_machine_is_local(url, local):
    assert is_loopback(url) is local
