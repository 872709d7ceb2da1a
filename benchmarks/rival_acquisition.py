"""The rivals of the acquisition bench, run in their own environment: `rival_acquisition.py NAME TASK.json`.

The task names the server, its latency, the chips (place, and the scenes that m3etl has chosen for them) and how many to
fetch. Every
rival is spared the search for scenes but MMEarth's, whose search is what its requests are for. What cannot be merged is
fetched modality by modality. Prints one JSON line.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import tempfile
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

warnings.simplefilter("ignore")

import ee  # noqa: E402
from ee import deprecation  # noqa: E402

threads = 40
Chip = dict[str, Any]


def open_client(url: str) -> None:
    """The vendor's client on a loopback server, without a look at the public catalogue."""
    os.environ["NO_PROXY"] = "127.0.0.1,localhost"
    deprecation._FetchDataCatalogStac = lambda: {}
    ee.Initialize(credentials=None, url=url, project="m3etl-rival")


def images_of(chip: Chip) -> Iterator[tuple[str, Any]]:
    """One image per modality, as the sources are: unconverted, on their own grids."""
    for name, scenes in chip["scenes"].items():
        if name.startswith("sentinel2_l"):
            yield name, ee.Image(scenes["ids"][0]).select(scenes["bands"])
        elif name.startswith("sentinel1"):
            yield name, ee.Image(scenes["ids"][0]).select(["VV", "VH"])
        elif name == "dynamic_world":
            yield (
                name,
                ee.ImageCollection([ee.Image(item) for item in scenes["ids"]]).select("label").mode().rename("label"),
            )
        elif name == "canopy_height":
            yield name, ee.Image(scenes["ids"][0]).addBands(ee.Image(scenes["ids"][1]).rename("sd"))
        elif name in ("aster_elevation", "worldcover"):
            yield name, ee.Image(scenes["ids"][0]).select([0])


source_bands = {
    "sentinel1_asc": ["VV", "VH"],
    "sentinel1_desc": ["VV", "VH"],
    "dynamic_world": ["label"],
    "canopy_height": ["b1", "sd"],
    "aster_elevation": ["b1"],
    "worldcover": ["Map"],
}


def transform_of(chip: Chip) -> tuple[float, ...]:
    return (10.0, 0.0, chip["xmin"], 0.0, -10.0, chip["ymax"])


def one_by_one(fetch: Callable[[Chip], None]) -> Callable[[list[Chip]], int]:
    """For a tool whose event loop belongs to one thread."""

    def run(chips: list[Chip]) -> int:
        for chip in chips:
            fetch(chip)
        return len(chips)

    return run


def in_threads(fetch: Callable[[Chip], None]) -> Callable[[list[Chip]], int]:
    """Chips side by side, as many as the quota allows requests."""

    def run(chips: list[Chip]) -> int:
        def attempt(chip: Chip) -> bool:
            try:
                fetch(chip)
            except Exception as error:
                sys.stderr.write(f"{type(error).__name__}: {error}\n")
                return False
            return True

        with ThreadPoolExecutor(threads) as pool:
            return sum(pool.map(attempt, chips))

    return run


def xee(chip: Chip) -> None:
    """https://github.com/google/Xee, README and docs/guide.md: open_dataset with explicit grid parameters, load."""
    import xarray

    for name, image in images_of(chip):
        dated = image.set("system:time_start", 0) if name not in ("sentinel2_l2a", "sentinel2_l1c") else image
        dataset = xarray.open_dataset(
            ee.ImageCollection([dated]),
            engine="ee",
            crs=f"EPSG:{chip['epsg']}",
            crs_transform=transform_of(chip),
            shape_2d=(chip["px"], chip["px"]),
        )
        dataset.load()


def geedim(chip: Chip) -> None:
    """https://geedim.readthedocs.io: prepareForExport on an explicit grid, then toNumPy; its requests side by side are
    the tiles of one image, and its one event loop takes no second thread.
    """
    import geedim  # noqa: F401

    for _, image in images_of(chip):
        prepared = image.gd.prepareForExport(
            crs=f"EPSG:{chip['epsg']}", crs_transform=transform_of(chip), shape=(chip["px"], chip["px"])
        )
        prepared.gd.toNumPy(max_requests=threads)


def cubexpress(chips: list[Chip], **workers: int) -> int:
    """https://pypi.org/project/cubexpress: a table of requests and one `express`, with 8 workers unless told."""
    import cubexpress

    rows, wanted = [], {}
    for number, chip in enumerate(chips):
        grid = cubexpress.RasterTransform(
            crs=f"EPSG:{chip['epsg']}",
            translate_x=chip["xmin"],
            translate_y=chip["ymax"],
            scale_x=10.0,
            scale_y=-10.0,
            width=chip["px"],
            height=chip["px"],
        )
        for name, image in images_of(chip):
            key = f"{number}_{name}"
            bands = source_bands.get(name, chip["scenes"][name]["bands"])
            rows.append(cubexpress.RequestRow(id=key, raster_transform=grid, image=image, bands=bands))
            wanted[key] = number
    with tempfile.TemporaryDirectory() as folder:
        result = cubexpress.express(cubexpress.RequestTable(rows), folder, verbose=False, **workers)
    lost = {wanted[key] for key in result.failed}
    for error in list(result.failed.values())[:3]:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
    return len(chips) - len(lost)


def mmearth(chip: Chip) -> None:
    """The requests of MMEarth's downloader in their order: 20 times getInfo, a download URL, the download."""
    import requests

    point = ee.Geometry.Point([chip["lon"], chip["lat"]])
    tile = point.buffer(650).bounds()
    centre = tile.centroid(1).coordinates()
    centre.get(0).getInfo(), centre.get(1).getInfo()
    s2 = ee.ImageCollection("COPERNICUS/S2_SR_HARMONIZED").filterBounds(tile)
    s2 = s2.filterDate(f"{chip['year']}-01-01", f"{chip['year']}-03-01").filter(
        ee.Filter.lt("CLOUDY_PIXEL_PERCENTAGE", 80)
    )
    s2.size().getInfo(), s2.limit(10).size().getInfo()
    level = "sentinel2_l2a" if "sentinel2_l2a" in chip["scenes"] else "sentinel2_l1c"
    anchor = ee.Image(chip["scenes"][level]["ids"][0])
    anchor.bandNames().getInfo()
    ee.Date(anchor.get("system:time_start")).format("YYYY-MM-dd").getInfo()
    anchor.select("B4").projection().getInfo()
    tile.coordinates().getInfo()
    layers = [image for _, image in images_of(chip)]
    for image in (layers * 4)[:4]:
        image.bandNames().getInfo()
    month = ee.Image("ECMWF/ERA5_LAND/MONTHLY_AGGR/202006").select(["temperature_2m"])
    month.reduceRegion(reducer=ee.Reducer.mean(), geometry=tile, scale=11_132).getInfo()
    for image in (layers * 5)[1:6]:
        image.bandNames().getInfo()
    tile.bounds().coordinates().getInfo()
    merged = layers[0].float()
    for image in layers[1:]:
        merged = merged.addBands(image.float())
    merged = merged.clip(tile)
    merged.bandNames().getInfo()
    side = 10.0 * chip["px"]
    corners = [chip["xmin"], chip["ymax"] - side, chip["xmin"] + side, chip["ymax"]]
    region = ee.Geometry.Rectangle(corners, f"EPSG:{chip['epsg']}", False)
    url = merged.getDownloadURL(
        {"region": region, "scale": 10, "crs": f"EPSG:{chip['epsg']}", "format": "GEO_TIFF", "filePerBand": False}
    )
    requests.get(url, timeout=300).raise_for_status()


rivals: dict[str, Callable[[list[Chip]], int]] = {
    "xee": in_threads(xee),
    "geedim": one_by_one(geedim),
    "cubexpress": cubexpress,
    "cubexpress_40": functools.partial(cubexpress, nworkers=threads),
    "mmearth": in_threads(mmearth),
}


def main() -> None:
    name, path = sys.argv[1:3]
    with open(path) as file:
        task = json.load(file)
    open_client(task["url"])
    rivals[name](task["chips"])  # so that the server has seen every request once
    chips = [task["chips"][number % len(task["chips"])] for number in range(task["count"])]
    with urllib.request.urlopen(f"{task['url']}/light/reset?{task['latency']}", timeout=30):
        done = rivals[name](chips)
    print(json.dumps({"done": done}))


if __name__ == "__main__":
    main()
