"""The batch lane against an Earth Engine and a bucket on the local disk: the same data as by the pixel lane, whatever
tasks, queue, bucket and files do.
"""

from __future__ import annotations

import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from fakes.earth import FakeEarth, fraction, install
from fakes.tasks import FakeTasks, place, write_export

from m3etl.campaign import open_campaign, save_config
from m3etl.errors import AuthenticationError, InputError, RemoteError
from m3etl.io.exports import Operation
from m3etl.io.objects import Bucket
from m3etl.io.outcomes import Failure, Kind, RequestFailed
from m3etl.io.plan import write_plan
from m3etl.io.provenance import read_provenance
from m3etl.stages import batch, taskrunning
from m3etl.stages.export import run_export
from m3etl.stages.status import read_status
from m3etl.stages.summary import SilentProgress
from m3etl.stages.taskrunning import TaskRunner
from tests.unit.stages.test_export import content, make_campaign, make_plan

chips = 6
selection = {"modalities": ("sentinel2", "aster", "canopy_height", "dynamic_world", "worldcover")}


@pytest.fixture(autouse=True)
def _questions(monkeypatch):
    install(monkeypatch)


@pytest.fixture(scope="module")
def by_pixels(tmp_path_factory):
    """The same chips by the pixel lane."""
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        campaign = make_campaign(tmp_path_factory.mktemp("pixels") / "c", make_plan(chips), **selection)
        run_export(open_campaign(campaign.root), session=FakeEarth(), progress=SilentProgress(), base_wait_s=0.002)
    return content(campaign.root)


class Clouds:
    """A campaign of the batch lane and the service that it talks to."""

    def __init__(self, root: Path, monkeypatch, **service) -> None:
        self.campaign = make_campaign(root / "c", make_plan(chips), lane="batch", batch_tile_px=512, **selection)
        self.tasks = FakeTasks(root / "cloud", **service)
        self.bucket: Bucket = self.tasks.bucket()
        monkeypatch.setattr(batch, "connect", lambda session, where, layout: (self.tasks, self.bucket))
        monkeypatch.setattr(batch, "_place_of", lambda campaign, session: place)

    def export(self, **options):
        options = {"progress": SilentProgress(), "base_wait_s": 0.001, **options}
        return run_export(open_campaign(self.campaign.root), session=FakeEarth(), **options)

    def content(self):
        return content(self.campaign.root)

    def files(self) -> list[Path]:
        return list((self.tasks.root / "buckets").rglob("*.tif"))

    def provenance(self):
        return read_provenance(self.campaign.root / "provenance").set_index(["chip_id", "array"])


@pytest.fixture
def clouds(tmp_path, monkeypatch):
    return lambda **service: Clouds(tmp_path, monkeypatch, **service)


def test_both_lanes_give_the_same_bytes(clouds, by_pixels):
    cloud = clouds()
    summary = cloud.export()
    assert (summary.done, summary.failed) == (chips, 0)
    assert cloud.content() == by_pixels
    started = cloud.tasks.started()
    assert len(started) == len(set(started)), "no attempt is started twice"
    assert {attempt for _, attempt in started} == {1}
    assert len(started) < 5 * chips, "static layers share tasks"
    assert cloud.files() == [], "what has landed is not kept in the bucket"
    assert summary.facts["tasks"] == read_status(cloud.campaign).facts["tasks"] == f"{len(started)} read"
    assert summary.facts["peak in flight"] == 3
    again = cloud.export()
    assert (again.done, again.facts["new chips"]) == (chips, 0)
    assert cloud.tasks.started() == started


def test_raw_files_are_kept_when_asked_for(clouds):
    cloud = clouds()
    config = replace(cloud.campaign.config, store=replace(cloud.campaign.config.store, keep_raw=True))
    save_config(replace(cloud.campaign, config=config))
    cloud.export()
    assert len(cloud.files()) == len(cloud.tasks.started())


def test_a_dry_run_tells_the_tasks_that_follow(clouds):
    cloud = clouds(slow=1)
    said = run_export(open_campaign(cloud.campaign.root), session=None, dry_run=True, progress=SilentProgress()).facts
    cloud.export()
    started = len(cloud.tasks.started())
    least, _, most = said["tasks"].partition(" to ")
    assert 0.8 * int(least) <= started <= int(most), "what a place does not have needs no task"
    assert said["bucket bytes (upper bound)"] > 0
    again = run_export(open_campaign(cloud.campaign.root), session=None, dry_run=True, progress=SilentProgress()).facts
    assert again["chips left"] == 0
    assert again["tasks so far"] == f"{started} read"
    assert again["task time from"].startswith("the runs so far")


def test_never_more_in_flight_than_the_service_runs(clouds, by_pixels):
    cloud = clouds(slow=2, limit=4)
    cloud.export()
    assert cloud.tasks.peak == 4
    assert cloud.content() == by_pixels


def test_a_full_queue_is_waited_for(clouds, by_pixels):
    cloud = clouds(slow=1, limit=6, queue=2)
    assert cloud.export().failed == 0
    assert cloud.tasks.peak == 2
    assert {attempt for _, attempt in cloud.tasks.started()} == {1}, "waiting costs no attempt"
    assert cloud.content() == by_pixels


def test_troubles_that_pass_leave_no_trace(clouds, by_pixels):
    def trouble(kind, subject, number):
        if kind == "run":
            if fraction(sorted(subject.scenes), subject.chips, number) < 0.3 and number < 3:
                return ended("An internal error has occurred", Kind.TRANSIENT)
            return None
        kinds = (Kind.TRANSIENT, Kind.NETWORK, Kind.RATE, Kind.CAPACITY)
        if fraction(kind, number, "fault") < 0.3:
            return Failure(kind=kinds[number % 4], message="injected")
        return None

    cloud = clouds(trouble=trouble)
    assert cloud.export().failed == 0
    assert cloud.content() == by_pixels
    started = cloud.tasks.started()
    assert len(started) == len(set(started))
    assert {attempt for _, attempt in started} > {1}


def ended(message: str, kind: Kind) -> Operation:
    return Operation(name="x", done=True, failure=Failure(kind=kind, message=message))


def fails(array: str, operation: Operation, *, attempts: int = 10**6):
    """A script by which tasks with this array end in this way, for some attempts."""

    def trouble(kind, subject, number):
        return operation if kind == "run" and array in subject.scenes and number <= attempts else None

    return trouble


def test_a_task_that_fails_for_good_is_sent_once_and_its_chips_reported(clouds, by_pixels):
    cloud = clouds(trouble=fails("aster_slope", ended("Unknown thing", Kind.DETERMINISTIC)))
    summary = cloud.export()
    assert (summary.done, summary.failed) == (0, chips)
    assert summary.errors == {"deterministic: Unknown thing": chips}
    started = cloud.tasks.started()
    assert {attempt for _, attempt in started} == {1}
    cloud.tasks.trouble = None
    assert cloud.export(retry_failed=True).done == chips
    assert {attempt for _, attempt in cloud.tasks.started()[len(started) :]} <= {1, 2}


def test_a_task_that_keeps_failing_is_given_up_after_some_attempts(clouds):
    cloud = clouds(trouble=fails("canopy_height", ended("An internal error has occurred", Kind.TRANSIENT)))
    summary = cloud.export()
    assert summary.errors == {"transient: An internal error has occurred": chips}
    assert {attempt for _, attempt in cloud.tasks.started()} == {1, 2, 3}


def test_a_cancelled_task_is_not_started_again_by_itself(clouds, by_pixels):
    operation = ended("the task was cancelled at Earth Engine", Kind.CANCELLED)
    cloud = clouds(trouble=fails("worldcover", operation, attempts=1))
    summary = cloud.export()
    assert summary.errors == {"cancelled: the task was cancelled at Earth Engine": chips}
    assert {attempt for _, attempt in cloud.tasks.started()} == {1}
    assert cloud.export(retry_failed=True).done == chips


def test_too_large_becomes_smaller_tasks_and_the_same_data(clouds, by_pixels):
    def trouble(kind, subject, number):
        if kind == "run" and len(subject.scenes) * len(subject.chips) > 1:
            return ended("User memory limit exceeded.", Kind.TOO_LARGE)
        return None

    cloud = clouds(trouble=trouble)
    assert cloud.export().failed == 0
    assert cloud.content() == by_pixels


def test_a_vanished_image_is_source_changed_and_nothing_else_is_lost(clouds, by_pixels):
    gone: list[str] = []

    def trouble(kind, subject, number):
        if kind == "run" and "dynamic_world" in subject.scenes:
            gone[:] = gone or [subject.scenes["dynamic_world"][0]]
            if subject.scenes["dynamic_world"][0] == gone[0]:
                failure = Failure(kind=Kind.SOURCE_CHANGED, message="not found", asset=gone[0])
                return Operation(name="x", done=True, failure=failure)
        return None

    cloud = clouds(trouble=trouble)
    summary = cloud.export()
    assert (summary.done, summary.failed) == (chips, 0)
    statuses = cloud.provenance()["status"]
    assert (statuses == "source_changed").sum() == 1
    assert (statuses[:, "dynamic_world"] == "ok").sum() == chips - 1


def test_a_task_without_an_end_is_cancelled_and_tried_again(clouds, by_pixels):
    def trouble(kind, subject, number):
        stuck = kind == "run" and "aster_slope" in subject.scenes and number == 1
        return Operation(name="x", done=False) if stuck else None

    cloud = clouds(trouble=trouble)
    config = replace(cloud.campaign.config.export, batch_deadline_h=0.0)
    save_config(cloud.campaign.with_config(export=config))
    assert cloud.export().failed == 0
    assert len(cloud.tasks.cancelled) >= 1
    assert cloud.content() == by_pixels


# --- files that are not what was asked for ----------------------------------------------------------------------------


def truncated(path, task, attempt):
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def headless(path, task, attempt):
    path.write_bytes(b"<html>busy</html>")


def other_type(path, task, attempt):
    write_export(path, task, dtype="float64")


def shifted(path, task, attempt):
    a, b, c, d, e, f = task.affine
    write_export(path, task, transform=rasterio.Affine(a, b, c + a, d, e, f))


def crooked(path, task, attempt):
    a, b, c, d, e, f = task.affine
    write_export(path, task, transform=rasterio.Affine(a, b, c + a / 2, d, e, f))


def other_zone(path, task, attempt):
    write_export(path, task, crs="EPSG:32631")


def narrow(path, task, attempt):
    write_export(path, task, width=task.width - 1)


def missing(path, task, attempt):
    path.unlink()


def swapped(path, task, attempt):
    with rasterio.open(path, "r+") as file:
        file.descriptions = tuple(reversed([f"{name}?" for name in file.descriptions]))


def out_of_range(path, task, attempt):
    if "worldcover" in task.scenes or "aster_slope" in task.scenes:
        with rasterio.open(path, "r+") as file:
            values = file.read()
            values[:] = 11 if "worldcover" in task.scenes else 32_000
            file.write(values)
    else:
        missing(path, task, attempt)


def nothing(path, task, attempt):
    """All fill where planning promised an image, as for the anchor."""
    with rasterio.open(path, "r+") as file:
        fill = np.iinfo(file.dtypes[0]).min if file.dtypes[0] == "int16" else np.iinfo(file.dtypes[0]).max
        file.write(np.full((file.count, file.height, file.width), fill, dtype=file.dtypes[0]))


@pytest.mark.parametrize(
    "spoil", [truncated, headless, other_type, shifted, other_zone, narrow, missing, swapped, out_of_range]
)
def test_wrong_files_are_not_accepted_and_exported_again(clouds, by_pixels, spoil):
    def first_time(path, task, attempt):
        if attempt == 1:
            spoil(path, task, attempt)

    cloud = clouds(spoil=first_time)
    assert cloud.export().failed == 0
    assert {attempt for _, attempt in cloud.tasks.started()} == {1, 2}
    assert cloud.content() == by_pixels


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (truncated, "cannot be"),
        (other_type, "the type is float64"),
        (missing, "no files"),
        (shifted, "pixels, or some twice"),
        (crooked, "pixels lie at"),
        (nothing, "all fill where planning promised"),
    ],
)
def test_files_that_stay_wrong_are_reported(clouds, spoil, reason):
    def anchors(path, task, attempt):
        if any(name.startswith("sentinel2_l") for name in task.scenes):
            spoil(path, task, attempt)

    cloud = clouds(spoil=anchors)
    summary = cloud.export()
    assert (summary.done, summary.failed) == (0, chips)
    assert all(text.startswith("wrong: ") and reason in text for text in summary.errors), summary.errors
    assert max(attempt for _, attempt in cloud.tasks.started()) == 3


def test_one_wrong_chip_of_a_tile_takes_no_other_with_it(clouds, by_pixels):
    victim = make_plan(chips)["chip_id"][3]

    def one(path, task, attempt):
        place = next((item for item in task.chips if item[0] == victim), None)
        if place is not None and "aster_slope" in task.scenes:
            with rasterio.open(path, "r+") as file:
                values = file.read()
                _, column, row = place
                values[:, row * task.side : (row + 1) * task.side, column * task.side : (column + 1) * task.side] = (
                    32_000
                )
                file.write(values)

    cloud = clouds(spoil=one)
    summary = cloud.export()
    assert (summary.done, summary.failed) == (chips - 1, 1)
    assert cloud.provenance().loc[victim]["status"].eq("failed").all()


def test_an_export_in_several_files_is_put_together(clouds, by_pixels):
    def split(path, task, attempt):
        with rasterio.open(path) as file:
            values, descriptions = file.read(), file.descriptions
        path.unlink()
        a, b, c, d, e, f = task.affine
        for row in range(0, task.height, 160):
            for column in range(0, task.width, 96):
                part = values[:, row : row + 160, column : column + 96]
                name = path.with_name(f"{path.stem}{row:010d}-{column:010d}.tif")
                with rasterio.open(
                    name,
                    "w",
                    driver="GTiff",
                    crs=f"EPSG:{task.epsg}",
                    transform=rasterio.Affine(a, b, c + a * column, d, e, f + e * row),
                    width=part.shape[2],
                    height=part.shape[1],
                    count=len(part),
                    dtype=part.dtype,
                ) as target:
                    target.write(part)
                    target.descriptions = descriptions

    cloud = clouds(spoil=split)
    assert cloud.export().failed == 0
    assert cloud.content() == by_pixels


def test_a_missing_one_of_several_files_is_seen(clouds):
    incomplete = set()

    def first_file_only(path, task, attempt):
        if task.rows > 1:
            incomplete.update(task.chip_ids)
            write_export(path.with_name(f"{path.stem}{0:010d}-{0:010d}.tif"), task, height=task.side)
            path.unlink()

    cloud = clouds(spoil=first_file_only)
    summary = cloud.export()
    assert summary.failed == len(incomplete) > 1
    assert all("pixels, or some twice" in text for text in summary.errors)
    assert cloud.provenance()["status"].eq("failed").groupby("chip_id").any().sum() == len(incomplete)


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_a_bucket_that_is_not_there_is_said_before_anything_is_asked(clouds, by_pixels):
    cloud = clouds()
    working = cloud.bucket

    def refuse(name, content):
        raise InputError("there is no bucket gs://a-bucket", hint="Make it.")

    cloud.bucket = working.__class__(working._store, place, working._base_url, working._token)
    cloud.bucket.write = refuse
    with pytest.raises(InputError, match="no bucket") as caught:
        cloud.export()
    assert caught.value.exit_code == 2
    assert cloud.tasks.started() == []
    cloud.bucket = working
    assert cloud.export().failed == 0
    assert cloud.content() == by_pixels


@pytest.mark.parametrize("where", ["run", "submit"])
def test_an_account_that_may_not_write_stops_the_run_and_the_next_one_goes_on(clouds, by_pixels, where):
    refused = ended("No storage.objects.create access to the bucket", Kind.DETERMINISTIC)

    def trouble(kind, subject, number):
        return (refused if kind == "run" else refused.failure) if kind == where else None

    cloud = clouds(trouble=trouble)
    with pytest.raises(RemoteError, match="cannot write to gs://a-bucket/deep") as caught:
        cloud.export()
    assert caught.value.exit_code == 4
    cloud.tasks.trouble = None
    assert cloud.export().failed == 0
    assert cloud.content() == by_pixels


@pytest.mark.parametrize("where", ["submit", "look"])
def test_an_expired_login_ends_the_run_and_the_next_one_goes_on(clouds, by_pixels, where):
    def trouble(kind, subject, number):
        expired = kind == where and number > 5
        return Failure(kind=Kind.AUTH, message="token expired", status=401) if expired else None

    cloud = clouds(trouble=trouble)
    with pytest.raises(AuthenticationError, match="rejected the login") as caught:
        cloud.export()
    assert caught.value.exit_code == 4
    cloud.tasks.trouble = None
    assert cloud.export().failed == 0
    started = cloud.tasks.started()
    assert len(started) == len(set(started))
    assert {attempt for _, attempt in started} == {1}
    assert cloud.content() == by_pixels


def test_a_service_that_stays_silent_ends_the_run(clouds, by_pixels, monkeypatch):
    monkeypatch.setattr(taskrunning, "patience_s", 0.05)
    cloud = clouds(trouble=lambda kind, subject, number: Failure(kind=Kind.NETWORK, message="connection lost"))
    with pytest.raises(RemoteError, match="connection lost"):
        cloud.export()
    cloud.tasks.trouble = None
    assert cloud.export().failed == 0
    assert cloud.content() == by_pixels


def test_a_submission_whose_answer_was_lost_starts_nothing_twice(clouds, by_pixels):
    cloud = clouds()
    submit, lost = cloud.tasks.submit, set()

    def losing(job, attempt, task):
        name = submit(job, attempt, task)
        if job not in lost:
            lost.add(job)
            raise RequestFailed(Failure(kind=Kind.NETWORK, message="connection lost"))
        return name

    cloud.tasks.submit = losing
    assert cloud.export().failed == 0
    started = cloud.tasks.started()
    assert len(started) == len(set(started))
    assert {attempt for _, attempt in started} == {1}
    assert cloud.content() == by_pixels


def test_interrupted_tasks_go_on_and_are_collected_later(clouds, by_pixels):
    cloud = clouds(slow=3)
    lanes = []
    start = TaskRunner._look_at_all

    def stopping(self):
        lanes.append(self)
        if len(lanes) == 6:
            self._stop.set()
        return start(self)

    TaskRunner._look_at_all = stopping
    try:
        with pytest.raises(KeyboardInterrupt):
            cloud.export()
    finally:
        TaskRunner._look_at_all = start
    assert cloud.tasks.waiting()
    assert cloud.export().failed == 0
    started = cloud.tasks.started()
    assert len(started) == len(set(started))
    assert cloud.content() == by_pixels


def test_tasks_of_parts_are_collected_after_joining(clouds, monkeypatch):
    whole = clouds()
    plan = make_plan(40)
    write_plan(whole.campaign.plan_path, plan)
    campaign = whole.campaign.with_config(store=replace(whole.campaign.config.store, lot_chips=16))
    save_config(campaign)
    shutil.copytree(campaign.root, campaign.root.parent / "parted")
    assert whole.export().failed == 0
    parted = open_campaign(campaign.root.parent / "parted")
    monkeypatch.setattr(batch, "_place_of", lambda campaign, session: place)
    whole.tasks.slow = 10**6
    options = {"session": FakeEarth(), "progress": SilentProgress(), "base_wait_s": 0.001}
    for number in (1, 2):
        with monkeypatch.context() as patch:
            stop_soon(patch)
            with pytest.raises(KeyboardInterrupt):
                run_export(open_campaign(parted.root), part=(number, 2), **options)
    assert len(whole.tasks.waiting()) == 2 * whole.tasks.limit, "both parts have tasks on their way"
    whole.tasks.slow = 0
    assert run_export(open_campaign(parted.root), **options).failed == 0
    started = whole.tasks.started()
    assert len(started) == len(set(started)), "what the parts had asked for is not asked for again"
    assert not whole.tasks.waiting()
    assert content(parted.root) == whole.content()
    assert read_status(open_campaign(parted.root)).facts["tasks"].endswith(" read")


def test_parts_on_their_way_to_different_buckets_are_not_joined(clouds, monkeypatch):
    cloud = clouds(slow=10**6)
    write_plan(cloud.campaign.plan_path, make_plan(40))
    campaign = cloud.campaign.with_config(store=replace(cloud.campaign.config.store, lot_chips=16))
    save_config(campaign)
    for number in (1, 2):
        with monkeypatch.context() as patch:
            stop_soon(patch)
            patch.setattr(batch, "_place_of", lambda *_, number=number: replace(place, name=f"bucket-{number}"))
            with pytest.raises(KeyboardInterrupt):
                cloud.export(part=(number, 2))
    with pytest.raises(InputError, match=r"bucket-1/deep.*bucket-2/deep") as caught:
        cloud.export()
    assert "--part I/N" in caught.value.hint
    assert len(list(cloud.campaign.root.glob("ledger-*.sqlite"))) == 2


def test_the_real_service_needs_a_bucket(tmp_path):
    campaign = make_campaign(tmp_path / "c", make_plan(2), lane="batch")
    earth = FakeEarth()
    earth.local = False
    with pytest.raises(InputError, match="needs a bucket") as caught:
        run_export(open_campaign(campaign.root), session=earth, progress=SilentProgress(), base_wait_s=0.001)
    assert "gcloud storage buckets create" in caught.value.hint


def test_another_bucket_waits_until_the_first_is_empty(clouds, monkeypatch):
    cloud = clouds(slow=10**6)
    stop_soon(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        cloud.export()
    monkeypatch.setattr(batch, "_place_of", lambda campaign, session: replace(place, name="another"))
    with pytest.raises(InputError, match=r"exports are on their way to gs://a-bucket/deep"):
        cloud.export()


def stop_soon(monkeypatch) -> None:
    look = TaskRunner._look_at_all
    seen = threading.local()

    def stopping(self):
        seen.count = getattr(seen, "count", 0) + 1
        if seen.count > 3:
            self._stop.set()
        return look(self)

    monkeypatch.setattr(TaskRunner, "_look_at_all", stopping)


def test_a_lost_ledger_starts_over_under_other_names(clouds, by_pixels):
    cloud = clouds()
    cloud.export()
    started = cloud.tasks.started()
    for name in ("chips.zarr", "provenance", "raw"):
        shutil.rmtree(cloud.campaign.root / name, ignore_errors=True)
    for path in cloud.campaign.root.glob("ledger.sqlite*"):
        path.unlink()
    assert cloud.export().failed == 0
    later = cloud.tasks.started()[len(started) :]
    assert len(later) == len(started)
    assert not set(later) & set(started)
