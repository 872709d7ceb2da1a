"""Every failure of the batch lane that people meet, injected alone and mixed: in asking for tasks, in looking at
them, in how they end, in the bucket and in the files. The stored data are those of the pixel lane to the last bit, or
the chip is reported with its reason; what can't change is exported once.

One small campaign over a socket with the real clients of Earth Engine and Cloud Storage; the server's own log and its
own operations say what was sent again.
"""

from __future__ import annotations

import json
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from fakes.remembering import remembering_service

from m3etl.campaign import Campaign, open_campaign
from m3etl.emulator.batch import Running
from m3etl.emulator.faults import Faults, parse_faults
from m3etl.emulator.http_server import EmulatorServer
from m3etl.emulator.messages import failure
from m3etl.emulator.model import invalid
from m3etl.emulator.server import running
from m3etl.errors import AuthenticationError, InputError, RemoteError
from m3etl.io.earthengine import Session, open_session
from m3etl.io.objects import embedded_bucket
from m3etl.io.provenance import read_provenance
from m3etl.stages.export import run_export
from m3etl.stages.summary import SilentProgress, Summary
from tests.unit.stages.test_export import content, make_campaign, make_plan

chips = 4
pair = (1, 3)  # of them, in one tile: as much as one kind of trouble needs
modalities = ("sentinel2", "aster", "worldcover")
asking, looking = "image:export", "/operations/"
listing, files = f"/{embedded_bucket[:-1]}?", f"/{embedded_bucket}/*.tif"  # globs: the listing's path has no more
queue = "Too many tasks already in the queue (3000). Please wait for some of them to complete."
types = "Exported bands must have compatible data types; found inconsistent types: Float32 and Byte."

Ends = Callable[[Running], None]  # instead of an export: raises how it ends
Spoils = Callable[[Path], None]  # the file of an export


@dataclass(frozen=True)
class Case:
    """One kind of trouble: a fault of the wire at some path, an export that ends otherwise, or a file that is wrong.

    again: the task is exported once more; parts: smaller ones come in its place; lost: its chips are reported instead.
    export: which one meets it; the fifth is of two arrays and two chips, the second of reflectance.
    """

    name: str
    path: str = ""
    action: dict[str, Any] | None = None
    ends: Ends | None = None
    spoils: Spoils | None = None
    again: bool = False
    parts: bool = False
    lost: bool = False
    export: int = 5

    def rule(self, nth: int) -> dict[str, Any]:
        return {"path": self.path, "method": "POST" if self.path == asking else "GET", "calls": {"nth": nth},
                **(self.action or {})}  # fmt: skip


def ends(status: int, message: str) -> Ends:
    def end(running: Running) -> None:
        raise invalid(message) if status == 400 else failure(status, message)

    return end


def never(running: Running) -> None:
    while True:
        running.report(0.1)
        time.sleep(0.02)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])


def page(path: Path) -> None:
    path.write_bytes(b"<html>Sorry</html>")


def rewritten(path: Path, change: Callable[[Any, dict[str, Any]], Any]) -> None:
    with rasterio.open(path) as file:
        values, profile, names = file.read(), dict(file.profile), file.descriptions
    values = change(values, profile)
    profile |= {"driver": "GTiff", "dtype": values.dtype, "height": values.shape[1], "width": values.shape[2]}
    with rasterio.open(path, "w", **profile) as file:
        file.write(values)
        file.descriptions = names


def other_type(path: Path) -> None:
    rewritten(path, lambda values, profile: values.astype(np.float32))


def moved(path: Path) -> None:
    def change(values: Any, profile: dict[str, Any]) -> Any:
        profile["transform"] @= rasterio.Affine.translation(1, 0)
        return values

    rewritten(path, change)


def another_zone(path: Path) -> None:
    def change(values: Any, profile: dict[str, Any]) -> Any:
        profile["crs"] = "EPSG:32631"
        return values

    rewritten(path, change)


def narrow(path: Path) -> None:
    rewritten(path, lambda values, profile: values[:, :, :-1])


def all_fill(path: Path) -> None:
    def change(values: Any, profile: dict[str, Any]) -> Any:
        info = np.iinfo(values.dtype)
        return np.full_like(values, info.min if info.min else info.max)

    rewritten(path, change)


def out_of_range(path: Path) -> None:
    rewritten(
        path,
        lambda values, profile: np.full_like(
            values, 200 if values.dtype == np.uint8 else np.iinfo(values.dtype).max - 1
        ),
    )


wire = {
    "429": {"status": 429},
    "503": {"status": 503},
    "500": {"status": 500},
    "gateway page": {"status": 504, "html": "<html>Gateway timeout</html>"},
    "dropped before": {"drop": True},
    "dropped after": {"drop": "after"},
    "truncated": {"truncate": True},
    "page with 200": {"html": "<html>Sorry, something is busy</html>"},
}
cases = (
    *(Case(f"asking: {name}", asking, action) for name, action in wire.items()),
    *(Case(f"looking: {name}", looking, action) for name, action in wire.items()),
    *(Case(f"listing: {name}", listing, wire[name]) for name in ("503", "500", "dropped before", "truncated")),
    *(Case(f"reading: {name}", files, wire[name]) for name in ("503", "500", "dropped before", "truncated")),
    Case("queue full", asking, {"status": 400, "message": queue}),
    Case("asking: capacity", asking, {"status": 400, "message": "Earth Engine memory capacity exceeded."}),
    Case("asking: memory", asking, {"status": 400, "message": "User memory limit exceeded."}, parts=True),
    Case("asking: unknown function", asking, {"status": 400, "message": "Unknown algorithm Image.foo"}, lost=True),
    Case("ends: internal", ends=ends(500, "An internal error has occurred (request 1a2b)."), again=True),
    Case("ends: capacity", ends=ends(503, "Earth Engine capacity exceeded."), again=True),
    Case("ends: aggregations", ends=ends(400, "Too many concurrent aggregations."), again=True),
    Case("ends: memory", ends=ends(400, "User memory limit exceeded."), parts=True),
    Case("ends: timed out", ends=ends(400, "Computation timed out."), parts=True),
    Case("ends: reprojection", ends=ends(400, "Reprojection output too large (20000x20000 pixels)."), parts=True),
    Case("ends: types", ends=ends(400, types), lost=True),
    Case("ends: unknown function", ends=ends(400, "Unknown algorithm Image.foo"), lost=True),
    Case("never ends", ends=never, again=True),
    Case("file cut short", spoils=cut_short, again=True),
    Case("file is a page", spoils=page, again=True),
    Case("file missing", spoils=Path.unlink, again=True),
    Case("file of another type", spoils=other_type, again=True),
    Case("file moved by a pixel", spoils=moved, again=True),
    Case("file of another zone", spoils=another_zone, again=True),
    Case("file narrow", spoils=narrow, again=True),
    Case("file all fill", spoils=all_fill, again=True, export=2),
    Case("file out of range", spoils=out_of_range, again=True),
)


@dataclass(frozen=True)
class Run:
    """An export and what the server knows of it. met: descriptions of the tasks that ended otherwise or were spoilt."""

    campaign: Campaign
    summary: Summary
    log: list[dict[str, Any]]
    operations: list[dict[str, Any]]
    met: dict[str, Case]

    def attempts(self, description: str) -> list[int]:
        """Attempts that the server has seen of the same task."""
        job = description.rpartition("-")[0]
        names = (item["description"].rpartition("-") for item in self.operations)
        return sorted(int(attempt) for of, _, attempt in names if of == job)


class Rig:
    """Exports the same plan again and again by tasks, through one server and one session; each campaign has operations
    and a bucket of its own.
    """

    def __init__(self, folder: Path, server: EmulatorServer, session: Session, log: Path) -> None:
        self._folder, self._log = folder, log
        self._server, self._session = server, session
        self._evaluator = server.service.evaluator  # one memory for all
        self._count = 0

    def campaign(self, numbers: Sequence[int] = range(chips), **config: Any) -> Campaign:
        self._count += 1
        folder = self._folder / str(self._count)
        config = {"s2": "l2a", "lane": "batch", "batch_tile_px": 512, **config}
        plan = make_plan(chips).iloc[list(numbers)].reset_index(drop=True)
        return make_campaign(folder / "c", plan, modalities=modalities, **config)

    def export(self, campaign: Campaign, injected: dict[int, Case] | None = None, rules: Any = ()) -> Run:
        """injected: trouble of the n-th export; rules: of the wire."""
        folder = campaign.root.parent
        service = remembering_service(folder / "state")
        service.__dict__["_evaluator"] = self._evaluator
        met: dict[str, Case] = {}
        run, injected = service.operations._run, dict(injected or {})

        def run_or_not(operation: Running) -> None:
            self._seen += 1
            case = injected.get(self._seen)
            if case is not None:
                met[operation.operation.description] = case
            if case is not None and case.ends is not None:
                case.ends(operation)
            run(operation)
            if case is not None and case.spoils is not None:
                folder = operation.request["fileExportOptions"]["cloudStorageDestination"]["filenamePrefix"]
                (path,) = (service.buckets._directory / embedded_bucket / folder).parent.glob("*.tif")
                case.spoils(path)

        self._seen = 0
        service.operations._run = run_or_not
        service.operations.max_running = 1  # so that which is the n-th does not hang on threads
        self._server.service = service
        self._server.faults = Faults(parse_faults({"seed": 5, "rules": list(rules)}))
        start = self._log.stat().st_size
        service.start()
        try:
            summary = run_export(
                open_campaign(campaign.root), session=self._session, progress=SilentProgress(), base_wait_s=0.01
            )
        finally:
            service.close()
        lines = [json.loads(line) for line in self._log.read_bytes()[start:].splitlines()]
        states = [json.loads(path.read_text()) for path in (folder / "state" / "operations").glob("*.json")]
        return Run(campaign, summary, lines, states, met)


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    folder = tmp_path_factory.mktemp("batch")
    log = folder / "requests.jsonl"
    with (
        running(remembering_service(folder / "memory"), log=log) as server,
        open_session(url=server.url, project="") as session,
    ):
        yield Rig(folder, server, session, log)


@pytest.fixture(scope="module")
def by_pixels(rig):
    run = rig.export(rig.campaign(lane="pixels"))
    assert (run.summary.done, run.summary.failed) == (chips, 0)
    return run


@pytest.fixture(scope="module")
def pair_by_pixels(rig):
    return rig.export(rig.campaign(pair, lane="pixels"))


def check(run: Run, by_pixels: Run, rules: list[Case], expected: int) -> None:
    """All was injected; nothing is missing in silence; nothing was exported more often than it helps."""
    assert Counter(line["fault"] for line in run.log if line.get("fault") is not None) == dict.fromkeys(
        range(len(rules)), 1
    ), "faults of the wire were injected"
    assert len(run.met) == expected, "and those of exports"
    table = read_provenance(run.campaign.provenance_path)
    failed = set(table.loc[table["status"] == "failed", "chip_id"])
    met = [*rules, *run.met.values()]
    again = {name: attempts for name in (item["description"] for item in run.operations)
             if len(attempts := run.attempts(name)) > 1}  # fmt: skip
    for name, case in run.met.items():
        has_more = max(run.attempts(name)) > int(name.rpartition("-")[2])
        is_useless = bool(failed)  # where its chips are reported for another reason, nothing more is exported for them
        assert has_more == case.again or (is_useless and not has_more), f"{case.name}: exported again where that helps"
    if not any(case.again for case in run.met.values()):
        assert not again, "exported again without a reason"
    started = [item["description"] for item in run.operations]
    assert len(started) == len(set(started)), "no attempt was started twice"
    assert len(failed) == run.summary.failed == sum(run.summary.errors.values())
    assert bool(failed) >= any(case.lost for case in met), "a chip of a task that can't be done is reported"
    assert not failed or any(case.lost or case.parts for case in met)
    if not failed:
        assert content(run.campaign.root) == content(by_pixels.campaign.root)
        return
    reference = read_provenance(by_pixels.campaign.provenance_path).set_index(["chip_id", "array"])["checksum"]
    kept = table[~table["chip_id"].isin(failed)].set_index(["chip_id", "array"])["checksum"]
    assert len(kept) + len(failed) * table["array"].nunique() == len(reference)
    assert (kept == reference[kept.index]).all(), "the other chips are as by the pixel lane"


def deadline_h(group: list[Case]) -> float:
    return 3.0 / 3600 if any(case.ends is never for case in group) else 240.0


def injected(
    rig: Rig,
    by_pixels: Run,
    group: list[Case],
    exports: list[int],
    requests: list[int],
    numbers: Sequence[int] = range(chips),
) -> None:
    rules = [case for case in group if case.action is not None]
    others = [case for case in group if case.action is None]
    campaign = rig.campaign(numbers, batch_deadline_h=deadline_h(group))
    run = rig.export(
        campaign,
        {nth: case for case, nth in zip(group, exports, strict=True) if case in others},
        [case.rule(nth) for case, nth in zip(group, requests, strict=True) if case in rules],
    )
    check(run, by_pixels, rules, len(others))


def by_kind() -> dict[str, list[Case]]:
    """Cases with the same name after where it happens: one kind of trouble, wherever it may happen."""
    kinds: dict[str, list[Case]] = {}
    for case in cases:
        kinds.setdefault(case.name.rpartition(": ")[2] if case.action in wire.values() else case.name, []).append(case)
    return kinds


@pytest.mark.parametrize("kind", by_kind(), ids=lambda kind: kind.replace(" ", "-"))
def test_alone(rig, pair_by_pixels, kind):
    group = by_kind()[kind]
    places = [case.export for case in group]
    injected(rig, pair_by_pixels, group, places, places, pair)


def mixed_parts() -> list[list[Case]]:
    """Every case once, drawn into groups."""
    drawn = random.Random(3).sample(cases, len(cases))
    return [drawn[number::9] for number in range(9)]


@pytest.mark.parametrize("part", range(len(mixed_parts())))
def test_mixed(rig, by_pixels, part):
    """Several kinds of trouble in one run; together the parts have all of them."""
    group = mixed_parts()[part]
    places = random.Random(part).sample((1, 3, 4, 5, 6, 8, 9, 11), len(group))
    exports = [case.export if case.export != 5 else place for case, place in zip(group, places, strict=True)]
    injected(rig, by_pixels, group, exports, places)


def test_the_mix_has_every_kind_of_trouble():
    assert Counter(case.name for part in mixed_parts() for case in part) == dict.fromkeys(
        (case.name for case in cases), 1
    )


# --- the bucket itself ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "message", "error", "text", "code"),
    [
        (404, "The specified bucket does not exist.", InputError, "there is no bucket", 2),
        (403, "Denied.", RemoteError, "no permission to list", 4),
        (401, "Expired.", AuthenticationError, "login for Cloud Storage was rejected", 4),
    ],
    ids=["vanished", "denied", "login"],
)
def test_a_bucket_that_goes_away_in_the_middle_ends_the_run_and_the_next_one_goes_on(
    rig, by_pixels, status, message, error, text, code
):
    campaign = rig.campaign()
    gone = {"path": f"/{embedded_bucket}*", "method": "GET", "calls": {"after": 12}, "status": status}
    with pytest.raises(error, match=text) as caught:
        rig.export(campaign, rules=[{**gone, "message": message}])
    assert caught.value.exit_code == code
    state = campaign.root.parent / "state"
    if status == 404:  # made again, empty
        shutil.rmtree(state / "buckets")
    asked = len(list((state / "operations").glob("*.json")))
    assert asked
    run = rig.export(campaign)
    assert (run.summary.done, run.summary.failed) == (chips, 0)
    assert content(campaign.root) == content(by_pixels.campaign.root)
    attempts = Counter(item["description"].rpartition("-")[2] for item in run.operations)
    assert (attempts["2"] > 0) == (status == 404), "exported again is what was lost, and nothing else"
    started = [item["description"] for item in run.operations]
    assert len(started) == len(set(started))
