"""Export tasks through the real client: identity, queue, operations and what their errors mean."""

from __future__ import annotations

import hashlib
import threading

import numpy as np
import pytest
import rasterio

from m3etl.emulator.model import invalid
from m3etl.emulator.server import make_service, running
from m3etl.io.earthengine import open_session
from m3etl.io.exports import Exports, blames_bucket, folder_of
from m3etl.io.objects import BucketPlace
from m3etl.io.outcomes import Kind, RequestFailed
from m3etl.spec.catalog import arrays
from m3etl.spec.exporttasks import ExportTask

place = BucketPlace(name="a-bucket", prefix="some/where/")
names = ("canopy_height", "worldcover")


def task(columns: int = 2, **fields) -> ExportTask:
    scenes = {
        "canopy_height": arrays["canopy_height"].source,
        "worldcover": ("ESA/WorldCover/v100/2020",),
    }
    values = {
        "tile": "t",
        "epsg": 32632,
        "xmin": 480_000.0,
        "ymax": 5_280_320.0,
        "columns": columns,
        "rows": 1,
        "chip_m": 160.0,
        "side": 16,
        "scenes": scenes,
        "chips": tuple((f"chip{column}", column, 0) for column in range(columns)),
    }
    return ExportTask(**{**values, **fields})


class Rig:
    """A service of the planet with a client; `hold` keeps its operations from running."""

    def __init__(self, service, session) -> None:
        self.service = service
        self.exports = Exports(session, place, arrays)
        self.session = session

    def finished(self, name):
        self.service.operations.wait(name.rsplit("/", 1)[1], 30.0)
        return self.exports.look(name)


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    service = make_service(tmp_path_factory.mktemp("state"))
    with running(service) as server, open_session(url=server.url, project="") as session:
        yield Rig(service, session)


def test_an_export_lies_exactly_on_the_lattice_with_fill_and_names(rig):
    name = rig.exports.submit("a" * 24, 1, task())
    operation = rig.finished(name)
    assert (operation.done, operation.failure) == (True, None)
    assert operation.eecu_seconds > 0
    folder = rig.service.exporter._state_dir / "buckets" / "a-bucket" / "some/where" / folder_of("a" * 24, 1)
    (path,) = folder.iterdir()
    with rasterio.open(path) as file:
        assert file.crs.to_epsg() == 32632
        assert tuple(file.transform)[:6] == task().affine
        assert (file.width, file.height) == (32, 16)
        assert set(file.dtypes) == {"uint8"}
        bands = [("canopy_height", band) for band in arrays["canopy_height"].bands] + [("worldcover", "Map")]
        assert file.descriptions == tuple(f"{array}__{band}" for array, band in bands)
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert file.nodata is None
        assert np.isin(file.read(3), [*(item.code for item in arrays["worldcover"].classes), 255]).all()


def test_asking_twice_starts_one_task(rig):
    first = rig.exports.submit("b" * 24, 1, task())
    assert rig.exports.submit("b" * 24, 1, task()) == first
    assert rig.exports.submit("b" * 24, 2, task()) != first
    assert rig.exports.submit("c" * 24, 1, task()) != first


def test_one_that_the_service_knows_already_is_found_by_its_name(rig, monkeypatch):
    name = rig.exports.submit("d" * 24, 1, task())

    def refuse(project, kind, request):
        raise invalid("A task with this request id has already been used.")

    monkeypatch.setattr(rig.service.operations, "submit", refuse)
    assert rig.exports.submit("d" * 24, 1, task()) == name
    with pytest.raises(RequestFailed, match="already been used"):
        rig.exports.submit("e" * 24, 1, task())


def test_a_full_queue_is_no_fault_of_the_task(rig, monkeypatch):
    monkeypatch.setattr(rig.service.operations, "_max_pending", 0)
    with pytest.raises(RequestFailed) as caught:
        rig.exports.submit("f" * 24, 1, task())
    assert caught.value.failure.kind is Kind.RATE
    assert "already in the queue" in caught.value.failure.message


def test_the_running_limit_is_the_project_s(rig):
    assert rig.exports.running_limit() == 2
    rig.session.api.data.updateProjectConfig({"maxConcurrentExports": 5}, ["max_concurrent_exports"])
    assert rig.exports.running_limit() == 5


def test_a_cancelled_task_says_so(rig, monkeypatch):
    held = threading.Event()
    evaluate = rig.service.exporter.run

    def waiting(running):
        held.wait(10.0)
        evaluate(running)

    monkeypatch.setattr(rig.service.operations, "_run", waiting)
    name = rig.exports.submit("0" * 24, 1, task())
    assert not rig.exports.look(name).done
    rig.exports.cancel(name)
    held.set()
    failure = rig.finished(name).failure
    assert failure is not None
    assert failure.kind is Kind.CANCELLED


@pytest.mark.parametrize(
    ("message", "kind", "bucket"),
    [
        ("An internal error has occurred while writing to the bucket.", Kind.TRANSIENT, False),
        ("Export too large: specified 9 pixels (max: 4).", Kind.TOO_LARGE, False),
        ("User memory limit exceeded.", Kind.TOO_LARGE, False),
        ("Exported bands must have compatible data types; found Float32 and Byte.", Kind.DETERMINISTIC, False),
        ("An internal error has occurred (request 1).", Kind.TRANSIENT, False),
        ("Image.load: Image asset 'ESA/WorldCover/v100/2020' not found (does not exist).", Kind.SOURCE_CHANGED, False),
        ("Service account does not have storage.objects.create access to the bucket.", Kind.DETERMINISTIC, True),
    ],
)
def test_a_failed_task_has_a_kind(rig, monkeypatch, message, kind, bucket):
    def fail(running):
        raise invalid(message)

    monkeypatch.setattr(rig.service.operations, "_run", fail)
    operation = rig.finished(rig.exports.submit(hashlib.sha256(message.encode()).hexdigest()[:24], 1, task()))
    assert operation.failure is not None
    assert operation.failure.kind is kind
    assert blames_bucket(operation.failure) is bucket
    if kind is Kind.SOURCE_CHANGED:
        assert operation.failure.asset == "ESA/WorldCover/v100/2020"


def test_an_operation_that_is_not_there_is_an_error(rig):
    with pytest.raises(RequestFailed, match="not found"):
        rig.exports.look("projects/m3etl-local/operations/NONE")
