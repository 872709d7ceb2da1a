"""Every failure that people meet, injected alone and mixed: the stored data are those of an undisturbed run to the last
bit, or the chip is reported with its reason; nothing deterministic is asked for twice.

One small campaign over a socket with the real client; the server's own log says what was sent again.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.remembering import remembering_service

from m3etl.campaign import Campaign, open_campaign
from m3etl.emulator.faults import Faults, parse_faults
from m3etl.emulator.http_server import EmulatorServer
from m3etl.emulator.server import running
from m3etl.errors import RemoteError
from m3etl.io.earthengine import Session, open_session
from m3etl.io.ledger import open_ledger
from m3etl.io.provenance import read_provenance
from m3etl.io.store import open_store
from m3etl.stages.export import run_export
from m3etl.stages.summary import SilentProgress, Summary
from tests.unit.stages.test_export import content, make_campaign, make_plan

chips = 12
mixed_chips = 40
mixed_questions = 4  # that planning them takes at least
usual_deadline_s = 330.0
modalities = ("sentinel2", "aster", "worldcover")
per_minute = "Quota exceeded for quota metric 'Number of read requests' and limit 'Number of read requests per minute'"
no_bands = "Image.select: Band pattern 'B2' was applied to an Image with no bands. See https://example.org"
types = "Exported bands must have compatible data types; found inconsistent types: Float32 and Byte. (Error code: 3)"


@dataclass(frozen=True)
class Case:
    """One kind of trouble. again: the same request may be sent again; lost: chips may be reported instead."""

    name: str
    action: dict[str, Any]
    again: bool = True
    lost: bool = False
    planning: bool = True


def refusal(status: int, message: str | None = None, **headers: str) -> dict[str, Any]:
    return {"status": status, **({"message": message} if message else {}), **({"headers": headers} if headers else {})}


def wrong(**alteration: Any) -> dict[str, Any]:
    return {"alter": alteration}


cases = (
    Case("rate", refusal(429)),
    Case("rate with Retry-After", refusal(429, **{"Retry-After": "0.05"})),
    Case("quota per minute", refusal(429, per_minute, **{"Retry-After": "0"})),
    Case("aggregations", refusal(400, "Too many concurrent aggregations.")),
    Case("capacity", refusal(503, "Earth Engine capacity exceeded.")),
    Case("memory capacity", refusal(400, "Earth Engine memory capacity exceeded.")),
    Case("internal", refusal(500, "An internal error has occurred (request 1a2b).")),
    Case("timed out", refusal(400, "Computation timed out."), again=False),
    Case("memory", refusal(400, "User memory limit exceeded."), again=False),
    Case(
        "request size",
        refusal(400, "Total request size (50331649 bytes) must be less than or equal to 50331648 bytes."),
        again=False,
    ),
    Case("sides", refusal(400, "Pixel grid dimensions (40000x1) must be less than or equal to 32768."), again=False),
    Case("reprojection", refusal(400, "Reprojection output too large (20000x20000 pixels)."), again=False),
    Case("elements", refusal(400, "Collection query aborted after accumulating over 5000 elements."), again=False),
    Case("no bands", refusal(400, no_bands), again=False),
    Case("null", refusal(400, "Element.get: Parameter 'object' is required and may not be null."), again=False),
    Case("types", refusal(400, types), again=False, lost=True),
    Case("unknown function", refusal(400, "Unknown algorithm Image.foo"), again=False, lost=True),
    Case("not found", refusal(404, "Project not found"), again=False, lost=True),
    Case("gateway page", {"status": 504, "html": "<html>Gateway timeout</html>"}),
    Case("page with 200", {"html": "<html>Sorry, something is busy</html>"}),
    Case("empty with 200", {"body": ""}),
    Case("dropped before", {"drop": True}),
    Case("dropped after", {"drop": "after"}),
    Case("stalled", {"delay_ms": 2500, "drop": True}),
    Case("truncated", {"truncate": True}),
    Case("cut short", wrong(length=700), planning=False),
    Case("another dtype", wrong(dtype="float64"), planning=False),
    Case("another shape", wrong(rows=15), planning=False),
    Case("out of range", wrong(set={"aster*": 30_000, "worldcover*": 33}), planning=False),
    Case(
        "all fill",
        wrong(set={"sentinel2_l*": 65535, "sentinel2_cloud*": 255, "aster*": -32768, "worldcover*": 255}),
        planning=False,
    ),
    Case("another chip", wrong(swap=True), planning=False),
)
slower = {"delay_ms": 6000, "drop": True}  # than the deadline of a run in which other things take time too


@dataclass(frozen=True)
class Run:
    """An export under faults and what it left."""

    campaign: Campaign
    summary: Summary
    sent: list[dict[str, Any]]
    restricted: bool
    said: list[str]

    def faulty(self) -> list[dict[str, Any]]:
        return [line for line in self.sent if "fault" in line]

    @cached_property
    def values(self) -> dict[tuple[str, str], tuple[str, bytes, Any]]:
        """(chip, array) -> status, stored bytes, scene ids."""
        store = open_store(self.campaign.store_path)
        records = read_provenance(self.campaign.provenance_path)
        of = {(item.chip_id, item.array): item for item in records.itertuples()}
        rows = np.flatnonzero(store.chip_ids != "")
        found = {}
        for name in store.specs:
            for row, values in zip(rows, store.read(name, rows), strict=True):
                record = of[store.chip_ids[row], name]
                found[str(record.chip_id), name] = (record.status, values.tobytes(), tuple(record.scene_ids))
        return found

    def reasons(self) -> int:
        """Chips that are reported as failed."""
        ledger = open_ledger(self.campaign.ledger_path)
        try:
            return sum(count for _, _, count in ledger.failures())
        finally:
            ledger.close()


class Listening(SilentProgress):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


class Rig:
    """Exports the same plan again and again through one server and one session."""

    def __init__(self, folder: Path, server: EmulatorServer, session: Session, log: Path) -> None:
        self._folder, self._log = folder, log
        self._server, self._session = server, session
        self._count = 0

    def export(self, rules: list[dict[str, Any]], *, count: int = chips, deadline_s: float = usual_deadline_s) -> Run:
        self._count += 1
        campaign = make_campaign(
            self._folder / str(self._count) / "c",
            make_plan(count),
            modalities=modalities,
            max_in_flight=4,
            max_attempts=8,
            check_every=1,
        )
        self._server.faults = Faults(parse_faults({"seed": 5, "rules": rules}))
        self._session.restricted = False
        start, progress = self._log.stat().st_size, Listening()
        with self._deadline(deadline_s):
            summary = run_export(
                open_campaign(campaign.root), session=self._session, progress=progress, base_wait_s=0.01
            )
        until = time.monotonic() + 10
        while self._server.in_flight and time.monotonic() < until:  # the log names a stalled request when it ends
            time.sleep(0.05)
        lines = [json.loads(line) for line in self._log.read_bytes()[start:].splitlines()]
        sent = [line for line in lines if "compute" in line["path"]]
        return Run(campaign, summary, sent, self._session.restricted, progress.said)

    @contextmanager
    def _deadline(self, seconds: float) -> Iterator[None]:
        if seconds == usual_deadline_s:  # another one takes the client some time
            yield
            return
        self._session.api.data.setDeadline(seconds * 1000)
        try:
            yield
        finally:
            self._session.api.data.setDeadline(usual_deadline_s * 1000)


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    folder = tmp_path_factory.mktemp("matrix")
    log = folder / "requests.jsonl"
    with (
        running(remembering_service(folder / "state"), log=log) as server,
        open_session(url=server.url, project="", deadline_s=usual_deadline_s) as session,
    ):
        yield Rig(folder, server, session, log)


@pytest.fixture(scope="module")
def undisturbed(rig):
    run = rig.export([])
    assert (run.summary.done, run.summary.failed) == (chips, 0)
    return run


@pytest.fixture(scope="module")
def undisturbed_mixed(rig):
    return rig.export([], count=mixed_chips)


def rules_of(case: Case, pixels: dict[str, Any], planning: dict[str, Any]) -> list[dict[str, Any]]:
    rules = [{"path": "computePixels", "calls": pixels, **case.action}]
    return [*rules, {"path": "value:compute", "calls": planning, **case.action}] if case.planning else rules


def check_no_silent_hole(run: Run, reference: Run) -> int:
    """Every array of every chip is as it should be, or says that it is not; returns how many say so."""
    expected, found = reference.values, run.values
    changed = 0
    for (chip_id, name), (status, stored, scene_ids) in expected.items():
        there = found.get((chip_id, name))
        if there == (status, stored, scene_ids):
            continue
        changed += 1
        assert there is None or there[0] not in ("ok", status), f"{chip_id} {name} differs and says nothing"
    missing = {chip_id for chip_id, _ in expected} - {chip_id for chip_id, _ in found}
    failed = {chip_id for (chip_id, _), (status, _, _) in found.items() if status == "failed"}
    assert run.reasons() == len(missing | failed) == run.summary.failed
    assert sum(run.summary.errors.values()) == run.summary.failed
    return changed


def check_nothing_asked_again(run: Run, rules: set[int]) -> None:
    """Requests answered by these rules were not sent again."""
    for number, line in enumerate(run.sent):
        if line.get("fault") in rules:
            later = [other for other in run.sent[number + 1 :] if other["digest"] == line["digest"]]
            assert not later, f"sent again after an answer that does not pass: {line}, then {later}"


@pytest.mark.parametrize("case", cases, ids=lambda case: case.name.replace(" ", "-"))
def test_alone(rig, undisturbed, case):
    rules = rules_of(case, {"nth": [2, 7]}, {"nth": [2]})
    run = rig.export(rules, deadline_s=1.5 if case.name == "stalled" else usual_deadline_s)
    hit = Counter(line["fault"] for line in run.faulty())
    assert hit == Counter({0: 2, 1: 1} if case.planning else {0: 2}), "faults were injected"
    changed = check_no_silent_hole(run, undisturbed)
    if not case.again:
        check_nothing_asked_again(run, {0, 1})
    if case.lost:
        assert run.summary.failed
        assert changed
    else:
        assert run.summary.failed == 0
        assert content(run.campaign.root) == content(undisturbed.campaign.root)


def mixed_parts() -> list[list[Case]]:
    """Every case once, drawn into groups that make a tenth of the requests for pixels fail."""
    drawn = random.Random(11).sample(cases, len(cases))
    count = math.ceil(len(cases) / (mixed_chips // 10))
    return [drawn[number::count] for number in range(count)]


@pytest.mark.parametrize("part", range(len(mixed_parts())))
def test_mixed_at_ten_percent(rig, undisturbed_mixed, part):
    """Together the parts send every kind of trouble, each of them once into pixels and once into planning."""
    group = [replace(case, action=slower) if case.name == "stalled" else case for case in mixed_parts()[part]]
    places = random.Random(part)
    pixels = places.sample(range(5, mixed_chips + 1), len(group))  # a swap needs an answer before it
    planning = places.sample(range(1, mixed_questions + 1), len(group))
    rules, deterministic = [], set()
    for case, pixel, question in zip(group, pixels, planning, strict=True):
        sent = rules_of(case, {"nth": pixel}, {"nth": question})
        deterministic |= set() if case.again else {len(rules) + number for number in range(len(sent))}
        rules += sent
    run = rig.export(
        rules, count=mixed_chips, deadline_s=4.0 if slower in [case.action for case in group] else usual_deadline_s
    )
    assert Counter(line["fault"] for line in run.faulty()) == dict.fromkeys(range(len(rules)), 1), "all were injected"
    assert (check_no_silent_hole(run, undisturbed_mixed) > 0) == any(case.lost for case in group)
    check_nothing_asked_again(run, deterministic)
    assert run.summary.failed <= 2 * sum(case.lost for case in group), "the chip of a request, and one of a question"


def test_the_mix_has_every_kind_of_trouble():
    parts = mixed_parts()
    assert Counter(case.name for part in parts for case in part) == dict.fromkeys((case.name for case in cases), 1)
    assert {len(part) for part in parts} <= {mixed_chips // 10, mixed_chips // 10 - 1}


def test_every_answer_wrong_in_the_same_way_is_reported_and_never_stored(rig, undisturbed):
    run = rig.export([{"path": "computePixels", "calls": {"after": 6}, "alter": {"dtype": "float64"}}])
    assert run.summary.done == 6
    assert run.summary.failed == chips - 6
    assert all(reason.startswith("wrong: ") for reason in run.summary.errors)
    assert check_no_silent_hole(run, undisturbed) > 0


def test_memory_errors_that_stay_end_with_a_report(rig, undisturbed):
    run = rig.export([{"path": "computePixels", "status": 400, "message": "User memory limit exceeded."}])
    assert run.summary.failed == chips
    check_nothing_asked_again(run, {0})
    check_no_silent_hole(run, undisturbed)


def test_retry_after_is_honoured(rig):
    wait_s = 0.6
    rule = {"path": "computePixels", "calls": {"nth": 3}, "status": 429, "headers": {"Retry-After": str(wait_s)}}
    run = rig.export([rule])
    pixels = [line for line in run.sent if "computePixels" in line["path"]]
    ended = [np.datetime64(line["time"].rstrip("Z")) for line in pixels]
    began = [end - np.timedelta64(round(line["seconds"] * 1000), "ms") for end, line in zip(ended, pixels, strict=True)]
    refused = next(number for number, line in enumerate(pixels) if "fault" in line)
    later = [start for start in began if start > ended[refused] + np.timedelta64(30, "ms")]
    assert min(later) - ended[refused] >= np.timedelta64(round(wait_s * 1000) - 60, "ms")


@pytest.mark.filterwarnings("ignore:Your project has exceeded")  # as opening the session does; pytest forgets that
def test_restricted_mode_is_noticed(rig):
    headers = {"x-earth-engine-quota-status": "parallelism_restricted=true"}
    run = rig.export([{"path": "computePixels", "headers": headers}])
    assert run.summary.failed == 0
    assert run.restricted
    assert run.summary.facts["restricted mode"] is True
    assert any("restricted mode" in text for text in run.said)


def test_a_daily_limit_of_compute_ends_the_run_and_is_not_asked_again(rig):
    message = "Quota exceeded for quota metric 'EECU time' and limit 'earthengine.googleapis.com/daily_eecu_usage_time'"
    with pytest.raises(RemoteError, match="own limit of compute") as caught:
        rig.export([{"path": "computePixels", "calls": {"after": 3}, "status": 429, "message": message}])
    assert "nothing landed is lost" in caught.value.hint
