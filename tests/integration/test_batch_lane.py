"""Chip, block and batch through the real client against the embedded Earth Engine: the same stored numbers, fill where
images end, windows instead of whole files, and clear refusals that a later run gets over.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import rasterio
from pyproj import Transformer

from m3etl.campaign import Campaign, CampaignConfig, ExportConfig, SampleConfig, StoreConfig, create_campaign
from m3etl.campaign import open_campaign as reopen
from m3etl.emulator.process import start_embedded
from m3etl.errors import AuthenticationError, InputError, RemoteError
from m3etl.io.assembly import Chips
from m3etl.io.earthengine import open_session
from m3etl.io.plan import write_plan
from m3etl.io.store import open_store
from m3etl.spec.modality import Shape
from m3etl.stages import fetching
from m3etl.stages.export import run_export
from m3etl.stages.summary import SilentProgress
from tests.unit.stages.test_export import content, make_plan

chip_px = 32
cell_m = chip_px * 10
side = 2  # chips a side of a square of neighbours
squares = ((32632, 1500, 16_500), (32733, 1500, 25_000))  # EPSG, column and row of the first cell: north and south
canopy = "users/nlang/ETH_GlobalCanopyHeight_2020_10m_v1"
deviation = "users/nlang/ETH_GlobalCanopyHeightSD_2020_10m_v1"


def neighbours():
    """The plan of two squares of neighbouring chips, one in each hemisphere."""
    plan = make_plan(len(squares) * side**2)
    cells = [(epsg, c + n % side, r + n // side) for epsg, c, r in squares for n in range(side**2)]
    for number, (epsg, column, row) in enumerate(cells):
        x, y = (column + 0.5) * cell_m, (row + 0.5) * cell_m
        lon, lat = Transformer.from_crs(f"EPSG:{epsg}", "EPSG:4326", always_xy=True).transform(x, y)
        plan.loc[number, ["chip_id", "epsg", "lon", "lat", "year"]] = [
            f"{epsg}-{cell_m:04d}-{column:04d}-{row:04d}",
            epsg,
            lon,
            lat,
            2019,
        ]
        box = [column * cell_m, row * cell_m, (column + 1) * cell_m, (row + 1) * cell_m]
        plan.loc[number, ["xmin", "ymin", "xmax", "ymax"]] = np.asarray(box, dtype=float)
    return plan


def archive_of(folder):
    """A canopy map of our own that ends within the northern square: valid zeros, a hole of no data, and an edge."""
    epsg, column, row = squares[0]
    width = round(1.5 * chip_px)
    rows, columns = np.mgrid[0 : side * chip_px, 0:width]
    values = ((rows + columns) % 40).astype(np.uint8)
    values[10:20, 10:20] = 255
    values[30:40, 30:40] = 0
    transform = rasterio.Affine(10, 0, column * cell_m + 3.0, 0, -10, (row + side) * cell_m - 4.0)
    profile = {"driver": "GTiff", "width": width, "height": side * chip_px, "count": 1, "dtype": "uint8"}
    folder.mkdir()
    with rasterio.open(folder / "h.tif", "w", crs=f"EPSG:{epsg}", transform=transform, **profile) as file:
        file.write(values, 1)
    bands = [{"id": "b1", "href": "h.tif", "index": 1, "nodata": None}]
    lines = [
        {"type": "IMAGE", "id": name, "start": "2020-01-01T00:00:00Z", "license": "CC-BY-4.0", "bands": bands}
        for name in (canopy, deviation)
    ]
    (folder / "archive.jsonl").write_text("".join(json.dumps({**line, "properties": {}}) + "\n" for line in lines))
    return folder


def make_campaign(path, **export) -> Campaign:
    options = {"s2": "l2a", "plan_batch": 20, "check_every": 5, "requests_per_second": 1000.0, **export}
    config = CampaignConfig(
        sample=SampleConfig(chip_px=chip_px, strategy="grid", seed=5),
        export=ExportConfig(**options),
        store=StoreConfig(shard_chips=8),
    )
    campaign = create_campaign(path, config)
    write_plan(campaign.plan_path, neighbours())
    return campaign


def export(campaign, url, **options):
    with open_session(url=url, project="") as session:
        return run_export(
            reopen(campaign.root), session=session, progress=SilentProgress(), base_wait_s=0.02, **options
        )


refusals = [
    {"path": "/gone-bucket", "status": 404, "message": "No such bucket."},
    {"path": "/denied-bucket", "status": 403, "message": "Denied."},
]


@dataclass(frozen=True)
class Rig:
    """A server, its log, the same chips one by one, by blocks and by the batch lane, and the pixel requests of each."""

    url: str
    log: Path
    campaigns: dict[str, Campaign]
    asked: dict[str, int]

    def requests(self):
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lanes")
    log, faults = folder / "requests.jsonl", folder / "faults.json"
    faults.write_text(json.dumps({"rules": refusals}))
    campaigns, asked = {}, {}
    archive = archive_of(folder / "archive")
    with start_embedded(state_dir=folder / "state", archive=archive, log=log, faults=faults) as server:
        for way in ("chips", "blocks", "batch"):
            campaigns[way] = make_campaign(folder / way)
            with pytest.MonkeyPatch.context() as patch:
                if way == "chips":
                    patch.setattr(fetching, "Chips", lambda fail, block_chips: Chips(fail=fail, block_chips=1))
                before = log.read_text().count("computePixels")
                summary = export(campaigns[way], server.url, lane="batch" if way == "batch" else "pixels")
                asked[way] = log.read_text().count("computePixels") - before
            assert (summary.done, summary.failed) == (len(squares) * side**2, 0)
        yield Rig(url=server.url, log=log, campaigns=campaigns, asked=asked)


def test_chip_block_and_batch_store_the_same_integers(rig):
    campaigns = rig.campaigns
    assert rig.asked == {"chips": len(squares) * side**2, "blocks": len(squares), "batch": 0}
    assert content(campaigns["blocks"].root) == content(campaigns["chips"].root)
    assert content(campaigns["batch"].root) == content(campaigns["chips"].root)
    store = open_store(campaigns["batch"].store_path)
    rasters = [name for name, spec in store.specs.items() if spec.shape is Shape.RASTER]
    assert {"sentinel2_l2a", "sentinel1_asc", "aster_slope", "worldcover", "dynamic_world"} <= set(rasters)
    observed = {name for name in rasters if (store.read(name, np.arange(store.rows)) != store.specs[name].fill).any()}
    assert len(observed) >= len(rasters) - 2, "the places have nearly everything"


def test_edges_and_holes_are_fill_and_zeros_stay_zeros(rig):
    campaigns = rig.campaigns
    store = open_store(campaigns["batch"].store_path)
    plan = neighbours()
    epsg, column, row = squares[0]
    square = np.full((side * chip_px, side * chip_px), 7, dtype=np.uint8)
    for chip_id, xmin, ymax in plan.loc[plan["epsg"] == epsg, ["chip_id", "xmin", "ymax"]].itertuples(index=False):
        place = np.flatnonzero(store.chip_ids == chip_id)
        top = round(((row + side) * cell_m - ymax) / 10)
        left = round((xmin - column * cell_m) / 10)
        square[top : top + chip_px, left : left + chip_px] = store.read("canopy_height", place)[0, 0]
    assert (square[:, 50:] == 255).all(), "beyond the map's edge"
    assert (square[:, :9] != 255)[1:].all()
    assert (square[12:19, 12:19] == 255).all(), "where the map has no data"
    assert (square[32:38, 32:38] == 0).all(), "a height of zero is a value"


def test_files_are_read_by_windows_and_removed(rig):
    campaigns, requests = rig.campaigns, rig.requests()
    reads = [item for item in requests if item["path"].endswith(".tif") and item["method"] == "GET"]
    assert reads
    assert not [item for item in requests if item["status"] >= 400]
    submitted = [item for item in requests if item["path"].endswith("image:export")]
    deleted = [item for item in requests if item["method"] == "DELETE"]
    assert len(submitted) == len(deleted) > 0
    buckets = campaigns["batch"].root.parent / "state" / "buckets" / "m3etl-embedded"
    assert [path.name for path in buckets.rglob("*") if path.is_file()] == ["m3etl.json"]


static = ("worldcover", "aster")


def test_a_queue_of_operations_survives_its_server(tmp_path, rig):
    """The server is killed in the middle of the exports; the next one has its operations, and nothing starts twice."""
    campaign = make_campaign(tmp_path / "c", modalities=static)
    state, log = tmp_path / "state", tmp_path / "log.jsonl"
    faults = tmp_path / "faults.json"
    faults.write_text(json.dumps({"rules": [{"path": "/operations/", "calls": {"after": 1}, "status": 401}]}))
    with (
        start_embedded(state_dir=state, faults=faults, log=log) as server,
        pytest.raises(AuthenticationError) as caught,
    ):
        export(campaign, server.url, lane="batch")
    assert caught.value.exit_code == 4
    with start_embedded(state_dir=state, log=log) as server:
        assert export(campaign, server.url).failed == 0, "the lane is remembered"
    operations = list((state / "operations").glob("*.json"))
    requests = [json.loads(line) for line in log.read_text().splitlines()]
    submitted = [item for item in requests if item["path"].endswith("image:export")]
    assert len(operations) == len({item["digest"] for item in submitted})
    by_lanes = open_store(rig.campaigns["chips"].store_path)
    store = open_store(campaign.store_path)
    for name in ("worldcover", "aster_elevation", "aster_slope"):
        for row, chip_id in enumerate(store.chip_ids):
            other = np.flatnonzero(by_lanes.chip_ids == chip_id)
            np.testing.assert_array_equal(store.read(name, np.array([row])), by_lanes.read(name, other))


@pytest.mark.parametrize(
    ("bucket", "error", "text", "code"),
    [
        ("gone-bucket", InputError, "there is no bucket", 2),
        ("denied-bucket", RemoteError, "no permission to write", 4),
    ],
)
def test_a_bucket_that_refuses_is_said_before_anything_is_exported(tmp_path, rig, bucket, error, text, code):
    campaign = make_campaign(tmp_path / "c", modalities=("worldcover",))
    before = len(rig.requests())
    with pytest.raises(error, match=text) as caught:
        export(campaign, rig.url, lane="batch", bucket=f"gs://{bucket}/x")
    assert caught.value.exit_code == code
    assert not [item for item in rig.requests()[before:] if item["path"].endswith("image:export")]
    assert export(campaign, rig.url, bucket="gs://another-bucket").failed == 0
    assert reopen(campaign.root).config.export.lane == "batch", "what was asked for once is remembered"
