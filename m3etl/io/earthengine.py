"""The connection to Earth Engine through the vendor's own client: login, endpoints, deadlines, and one error type
with a kind.

The client keeps its state in the process, so one session is open at a time. Its own retries are off: outcomes are
handled by `io.flow`, which knows what may be retried.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import socket
import threading
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from m3etl.errors import AuthenticationError, InputError, MissingExtraError, RemoteError
from m3etl.io.outcomes import Failure, Kind, RequestFailed, classify

if TYPE_CHECKING:
    import geopandas

loopback_project = "m3etl-local"
page_rows = 1000  # computeFeatures pages, https://developers.google.com/earth-engine/reference/rest/v1
_pool_size = 64
_quota_header = "x-earth-engine-quota-status"


@dataclass(slots=True, kw_only=True)
class Session:
    """An initialised client. api: the vendor's module; url: where requests go; embedded: our own child serves them.

    local: the server is on this machine, so images that are not synthetic come from an archive. restricted: the service
    has said that the project's compute quota is used up and that it serves fewer requests at a time.
    """

    api: Any
    url: str
    project: str
    embedded: bool
    local: bool
    requests: int = 0
    restricted: bool = False
    _methods: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    _tag: str = ""
    _pixels: Any = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def compute_value(self, expression: Any, tag: str = "m3etl-plan") -> Any:
        """The value of an expression, the client's or encoded as JSON, as JSON-like Python objects. Raises
        RequestFailed.
        """
        if isinstance(expression, str):
            return value_of(self.compute_encoded(expression, tag))
        with self._lock:
            self.requests += 1
            if tag != self._tag:
                self.api.data.setWorkloadTag(tag)
                self._tag = tag
        with translated(self.api):
            return self.api.data.computeValue(expression)

    def compute_encoded(self, expression: str, tag: str = "m3etl-plan") -> bytes:
        """The body of the answer to an expression encoded as JSON, see `value_of`. Raises RequestFailed."""
        with self._lock:
            self.requests += 1
        body = f'{{"expression": {expression}, "workloadTag": {json.dumps(tag)}}}'
        with translated(self.api):
            return self._send_encoded("value", body, prettyPrint=False)

    def compute_pixels(self, request: Mapping[str, Any] | str) -> bytes:
        """The body of the answer to one computePixels request, given as the client takes it or as encoded JSON. Raises
        RequestFailed; what the bytes hold is for the caller to check.
        """
        with self._lock:
            self.requests += 1
        with translated(self.api):
            if isinstance(request, str):
                return self._send_encoded("image", request)
            return bytes(self.api.data.computePixels(dict(request)))

    def serves_values(self) -> bool:
        """Whether the service answers the smallest question there is."""
        try:
            return bool(self.compute_value('{"result": "0", "values": {"0": {"constantValue": 1}}}') == 1)
        except RequestFailed:
            return False

    def serves_pixels(self) -> bool:
        """Whether the service answers with one pixel of a constant."""
        side = {"dimensions": {"width": 1, "height": 1}, "affineTransform": {"scaleX": 1, "scaleY": -1}}
        grid = {**side, "crsCode": "EPSG:4326"}
        request = {"expression": self.api.Image.constant(1), "grid": grid, "fileFormat": "NPY"}
        try:
            return self.compute_pixels(request).startswith(b"\x93NUMPY")
        except RequestFailed:
            return False

    def _send_encoded(self, what: str, body: str, **options: Any) -> bytes:
        # What the client's computePixels and computeValue do after encoding: the same method of its resource, with its
        # transport, login, headers and errors. The body is put in afterwards, since the client would encode a
        # dictionary anew.
        data = self.api.data
        state = data._get_state()
        resource = (self._pixels or state.cloud_api_resource_raw) if what == "image" else state.cloud_api_resource
        known = self._methods.get(what)
        if known is None or known[0] is not resource:
            # Making the method takes longer than calling it; another deadline or URL brings another resource.
            projects = resource.projects()
            method = projects.image().computePixels if what == "image" else projects.value().compute
            known = self._methods[what] = (resource, method)
        call = known[1](project=data._get_projects_path(), body={}, **options)
        call.body, call.body_size = body, len(body.encode())
        call.postproc = _as_it_is
        return bytes(data._execute_cloud_call(call))

    def note_headers(self, headers: Mapping[str, str]) -> None:
        """Look at the headers of an answer; called for every one."""
        if "parallelism_restricted=true" in headers.get(_quota_header, ""):
            self.restricted = True

    def compute_features(self, collection: Any, tag: str = "m3etl-plan") -> Iterator[dict[str, Any]]:
        """Every feature of a collection as GeoJSON, page by page. Raises RequestFailed."""
        token: str | None = None
        while True:
            request: dict[str, Any] = {"expression": collection, "pageSize": page_rows, "workloadTag": tag}
            if token:
                request["pageToken"] = token
            with self._lock:
                self.requests += 1
            with translated(self.api):
                page = self.api.data.computeFeatures(request)
            yield from page.get("features", [])
            token = page.get("nextPageToken")
            if not token:
                return

    @contextlib.contextmanager
    def profiled(self) -> Iterator[list[str]]:
        """Asks for the profiles of this thread's calls in the block; the list holds their ids at its end."""
        ids: list[str] = []
        with self.api.data.profiling(ids.append):
            yield ids

    def eecu_seconds(self, profile_id: str) -> float:
        """EECU-seconds of a profiled call. Raises RequestFailed."""
        profiles = self.api.ApiFunction.lookup("Profile.getProfiles")
        return profile_total_s(self.compute_value(profiles.call(ids=[profile_id])))

    def use_high_volume(self) -> None:
        """Send encoded pixel requests to the endpoint for many small requests from now on (the real service only).
        Questions stay where they are, at the endpoint for few large ones, so that both may be asked at once.
        """
        if not self.url and self._pixels is None:
            data = self.api.data
            self._move_to(data.HIGH_VOLUME_API_BASE_URL)
            self._pixels = data._get_state().cloud_api_resource_raw
            self._move_to(data.DEFAULT_CLOUD_API_BASE_URL)  # without an address it would stay where it is

    def _move_to(self, url: str) -> None:
        with translated(self.api):
            self.api.Initialize(url=url, project=self.project or None)
        _take_over_answers(self)


@contextlib.contextmanager
def open_session(
    *,
    url: str,
    project: str,
    archive: Path | None = None,
    state_dir: Path | None = None,
    need_high_volume: bool = False,
    deadline_s: float = 330.0,
) -> Iterator[Session]:
    """An open session, closed at the end of the block.

    url: "" for the real service with the vendor's login, "embedded" for the embedded Earth Engine as a child of this
    process (with `archive` over its planet, its operations kept in `state_dir`), or an http address. Loopback
    addresses need no login. Raises AuthenticationError without a usable login, RemoteError where the server can't be
    reached, MissingExtraError without the vendor's client.
    """
    api = load_client()
    with contextlib.ExitStack() as stack:
        address, embedded = url.rstrip("/"), url == "embedded"
        if embedded:
            from m3etl.emulator.process import start_embedded

            server = stack.enter_context(start_embedded(state_dir=state_dir, archive=archive))
            address = server.url.rstrip("/")
        elif archive is not None:
            raise InputError(
                f"an archive ({archive}) was given, but the data comes from {address or 'the real Earth Engine'}",
                hint="Archives belong to the embedded Earth Engine: use `--ee-url embedded`, or name none: not with "
                "--archive, M3ETL_ARCHIVE or `archive` in campaign.toml's [earthengine].",
            )
        local = bool(address) and is_loopback(address)
        stack.callback(api.Reset)
        api.Reset()
        _initialize(api, address, project, local=local)
        api.data.setMaxRetries(0)
        api.data.setDeadline(deadline_s * 1000)
        session = Session(
            api=api,
            url=address,
            project=project or (loopback_project if local else ""),
            embedded=embedded,
            local=local,
        )
        _take_over_answers(session)
        if need_high_volume:
            session.use_high_volume()
        yield session


def _as_it_is(response: Any, content: bytes) -> bytes:
    return content


def value_of(body: bytes) -> Any:
    """The value in the body of an answer, as JSON-like Python objects. Raises RequestFailed where there is none."""
    try:
        return json.loads(body)["result"]
    except (ValueError, KeyError, TypeError) as error:
        raise RequestFailed(_unexpected(error)) from error


def is_loopback(url: str) -> bool:
    """Whether a URL names this machine."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def load_client() -> Any:
    """The vendor's client; MissingExtraError where it is not installed."""
    try:
        import ee
    except ImportError as error:
        raise MissingExtraError(
            "the Earth Engine client is not installed", hint="Install it with `pip install 'm3etl[ee]'`."
        ) from error
    return ee


def _initialize(api: Any, url: str, project: str, *, local: bool) -> None:
    if local:
        _skip_catalogue_download()
        _bypass_proxy()
        _knock(url)
    try:
        if local:
            api.Initialize(credentials=None, url=url, project=project or loopback_project)
        else:
            api.Initialize(url=url or None, project=project or None)
    except (ConnectionError, TimeoutError) as error:
        raise RemoteError(
            f"cannot reach Earth Engine at {url or 'its public address'}: {_reason(error)}",
            hint="Is the address right and the server running?" if url else "Is this machine online? Run again then.",
        ) from error
    except api.EEException as error:
        raise AuthenticationError(
            f"Earth Engine refused to start: {_reason(error)}",
            hint="Log in with `earthengine authenticate` and name your project with --ee-project, "
            "or work without an account: --ee-url embedded.",
        ) from error
    except Exception as error:
        if not _is_login_problem(error):
            raise
        if _may_pass(error):
            raise RemoteError(
                f"cannot reach Google to renew the login: {_reason(error)}",
                hint="Is this machine online? Run again then.",
            ) from error
        raise AuthenticationError(
            f"no usable login for Earth Engine: {_reason(error)}",
            hint="Run `earthengine authenticate`, or work without an account: --ee-url embedded.",
        ) from error


def _knock(url: str) -> None:
    # The client would try for a minute before it says that nobody listens.
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 80), timeout=10.0).close()
    except OSError as error:
        raise RemoteError(
            f"cannot reach Earth Engine at {url}: {error.strerror or error}",
            hint="Is the address right and the server running?",
        ) from error


def _skip_catalogue_download() -> None:
    # Initialize would fetch a list of deprecated assets from a public address, without any timeout.
    from ee import deprecation

    deprecation._FetchDataCatalogStac = lambda: {}


def _bypass_proxy() -> None:
    # The client honours HTTP_PROXY for every address; a server on this machine is not behind one.
    hosts = [item for item in os.environ.get("NO_PROXY", "").split(",") if item]
    os.environ["NO_PROXY"] = ",".join(dict.fromkeys([*hosts, "127.0.0.1", "localhost", "::1"]))


def _take_over_answers(session: Session) -> None:
    # The client's HTTP session keeps 10 connections and reads answers in small pieces, see io.transport.
    http = getattr(session.api.data._get_state(), "requests_session", None)
    if http is None:
        return
    from m3etl.io.transport import WholeAnswers

    adapter = WholeAnswers(connections=_pool_size, on_headers=session.note_headers)
    http.mount("http://", adapter)
    http.mount("https://", adapter)
    # The session remembers it and the run says it once; the client would warn in a thread at every answer.
    warnings.filterwarnings("ignore", "Your project has exceeded its noncommercial compute quota")


def profile_total_s(text: str) -> float:
    """EECU-seconds of a profile as the service prints it: a heading, then a row per operation, `-` for no cost.

    Raises RequestFailed for anything else.
    """
    heading, *rows = text.splitlines() or [""]
    if "EECU" not in heading:
        message = f"the profile is not what was asked for: {text[:80]!r}"
        raise RequestFailed(Failure(kind=Kind.TRANSIENT, message=message))
    costs = (row.split(maxsplit=1)[0] for row in rows if row.strip())
    return sum(float(cost) for cost in costs if _is_number(cost))


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdecimal()


def _is_login_problem(error: Exception) -> bool:
    return type(error).__module__.split(".")[0] == "google"


def _never_connected(error: BaseException) -> bool:
    cause: BaseException | None = error
    while cause is not None:
        if type(cause).__name__ in ("NewConnectionError", "NameResolutionError"):  # urllib3's
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _may_pass(error: Exception) -> bool:
    # Tokens are renewed every hour: a network that fails just then is no rejected login.
    return type(error).__name__ == "TransportError" or bool(getattr(error, "retryable", False))


@contextlib.contextmanager
def translated(api: Any) -> Iterator[None]:
    """Turn what the client raises into RequestFailed with its kind; the client itself drops the HTTP status."""
    try:
        yield
    except api.EEException as error:
        raise RequestFailed(_of_client_error(error)) from error
    except TimeoutError as error:
        raise RequestFailed(
            Failure(kind=Kind.DEADLINE, message=f"no answer within the deadline: {_reason(error)}")
        ) from error
    except ConnectionError as error:
        kind, what = (
            (Kind.UNREACHABLE, "no connection") if _never_connected(error) else (Kind.NETWORK, "connection lost")
        )
        raise RequestFailed(Failure(kind=kind, message=f"{what}: {_reason(error)}")) from error
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise RequestFailed(_unexpected(error)) from error
    except Exception as error:
        if not _is_login_problem(error):
            raise
        kind = Kind.NETWORK if _may_pass(error) else Kind.AUTH
        raise RequestFailed(Failure(kind=kind, message=_reason(error))) from error


def _unexpected(error: Exception) -> Failure:
    # A page or half an answer with status 200 where JSON was expected.
    return Failure(kind=Kind.TRANSIENT, message=f"the answer is not what was asked for: {_reason(error)}")


def _of_client_error(error: Exception) -> Failure:
    cause = error.__context__
    response = getattr(cause, "resp", None)
    if response is None:
        return classify(400, str(error))
    content = getattr(cause, "content", b"")
    body = content.decode("utf-8", "replace") if isinstance(content, bytes) else str(content)
    text = str(error)
    if '"reason"' in body and "ateLimitExceeded" in body:
        text += " (rate limit)"
    return classify(int(response.status), text, dict(response))


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def read_ecoregions(session: Session, *, simplify_m: float = 0.0) -> geopandas.GeoDataFrame:
    """`RESOLVE/ECOREGIONS/2017` as a table in longitude and latitude, geometries simplified by the server on request.

    Raises RemoteError where the service does not answer.
    """
    import geopandas

    api = session.api
    collection = api.FeatureCollection("RESOLVE/ECOREGIONS/2017")
    if simplify_m > 0:
        collection = collection.map(lambda item: item.simplify(simplify_m))
    try:
        features = list(session.compute_features(collection))
    except RequestFailed as failed:
        raise RemoteError(
            f"cannot read RESOLVE/ECOREGIONS/2017: {failed.failure.message}",
            hint="Run again, or give the ecoregions as a file with --ecoregions.",
        ) from failed
    return geopandas.GeoDataFrame.from_features(features, crs="EPSG:4326")
