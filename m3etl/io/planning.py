"""The two planning questions, many of both in one `value:compute`: which Sentinel-2 scenes are there and how do they
look over a place (a chip or a block of chips), and what else belongs to the anchors that were chosen.

Expressions are built with the session's client (`api`); nothing here imports it. Bands that an image may lack are
looked up by name over a masked stand-in, so a missing quality band is "unknown" and never an error.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from m3etl.io.programs import filtered
from m3etl.spec.catalog_dates import radar_dates
from m3etl.spec.catalog_further import angle_recipe, pass_array
from m3etl.spec.catalog_m3leo import terrain_recipes
from m3etl.spec.chipgrid import ChipGrid
from m3etl.spec.modality import ArraySpec, Temporal
from m3etl.spec.scenes import (
    Candidate,
    Months,
    PassImage,
    climate_bands,
    day_ms,
    months_until,
    year_of,
)
from m3etl.spec.search import either_level as either_level

level_collections: Mapping[str, str] = {"l2a": "COPERNICUS/S2_SR_HARMONIZED", "l1c": "COPERNICUS/S2_HARMONIZED"}
cloud_score_collection = "GOOGLE/CLOUD_SCORE_PLUS/V1/S2_HARMONIZED"
cloudy_below = 0.6  # cs_cdf; 0.6 is the catalogue page's own recommendation for clear pixels
score_gsd_m = 60.0
companions_part = "companions"
cloudy_scl = (3, 8, 9, 10)  # shadow, cloud of medium and high probability, cirrus
qa60_bits = (1 << 10) | (1 << 11)  # opaque cloud, cirrus
most_passes = 12
one_acquisition_ms = 600_000
recipes_of_passes = frozenset({"sentinel1", angle_recipe})
recipes_of_collections = frozenset(
    {"worldcover", "dynamic_world", "orbits", *(name for name in terrain_recipes if name.startswith("tiled"))}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One question about Sentinel-2 over a place: a level, a window of time [start, end) in ms, and the wished moment,
    if any.
    """

    chip: ChipGrid
    level: str
    start_ms: int
    end_ms: int
    wish_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchored:
    """A place with its anchor: longitude and latitude of each chip's centre, time, system:index ("" without a scene),
    other level to look for, year of yearly composites, moments of each season's date where they are wanted.
    """

    chip: ChipGrid
    points: tuple[tuple[float, float], ...]
    time_ms: int
    index: str
    year: tuple[int, int]
    month: tuple[int, int]
    other_level: str = ""
    dates: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageList:
    """Images that a composite or map is made of: ids in order of time, time of the first, licences, whether any is
    synthetic.
    """

    scene_ids: tuple[str, ...] = ()
    time_ms: int | None = None
    licenses: tuple[str, ...] = ()
    synthetic: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Companions:
    """What belongs to one anchor, as the service answered. months: of each point; dated_passes: near each of the
    dates.
    """

    other: tuple[Candidate, ...] = ()
    passes: Mapping[str, tuple[PassImage, ...]] = field(default_factory=dict)
    dated_passes: Mapping[str, tuple[tuple[PassImage, ...], ...]] = field(default_factory=dict)
    composites: Mapping[str, ImageList] = field(default_factory=dict)
    months: tuple[Months, ...] = ()
    climate: ImageList = field(default_factory=ImageList)
    cloud_scores: ImageList = field(default_factory=ImageList)
    classifications: ImageList = field(default_factory=ImageList)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """The answer to one request: the candidates of each `Wanted` and the companions of each `Anchored`, in order."""

    scenes: tuple[tuple[Candidate, ...], ...]
    companions: tuple[Companions, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A request without its places. scenes: part, level and whether a moment is wished for, of each kind of question
    about scenes; levels: to look for beside the anchors'.
    """

    scenes: tuple[tuple[str, str, bool], ...]
    companions: bool
    levels: tuple[str, ...]


def encode_form(api: Any, form: Form, specs: Sequence[ArraySpec], *, candidates: int, gap_days: float) -> str:
    """The JSON of a request's expression with marks where the places go, encoded by the client. For each `Wanted`: the
    scored scenes, at most `candidates`, the least cloudy granules first (with a wished moment: the nearest to it). For
    each `Anchored`: Sentinel-1 images within `gap_days`, ids of yearly composites and maps, monthly climate, the other
    level's scene.
    """
    parts: dict[str, Any] = {}
    for name, level, is_dated in form.scenes:
        parts[name] = _scenes(api, api.List([_mark(name)]), level, is_dated, candidates)
    if form.companions:
        places = api.List([_mark(companions_part)])
        parts[companions_part] = _companions_of(api, places, specs, form.levels, gap_days)
    return json.dumps(api.serializer.encode(api.Dictionary(parts), for_cloud_api=True))


class Questions:
    """Requests that ask both kinds of questions, as encoded expressions.

    encode: `encode_form` of a session, called once for each form; the places, for which the client would take
    milliseconds each, are put in as it would write them.
    """

    def __init__(self, specs: Sequence[ArraySpec], encode: Callable[[Form], str]) -> None:
        self.specs = tuple(specs)
        self._encode = encode
        self._encoded: dict[Form, str] = {}
        self._lock = threading.Lock()  # several threads would only make the same text at the same time

    def expression(self, wanted: Sequence[Wanted], anchored: Sequence[Anchored]) -> str:
        """The JSON of one expression."""
        kinds = _by_kind(wanted)
        firsts = {name: wanted[numbers[0]] for name, numbers in kinds.items()}
        form = Form(
            scenes=tuple((name, first.level, first.wish_ms is not None) for name, first in firsts.items()),
            companions=bool(anchored),
            levels=tuple(sorted({item.other_level for item in anchored if item.other_level})),
        )
        with self._lock:
            text = self._encoded.get(form)
            if text is None:
                text = self._encoded[form] = self._encode(form)
        for name, numbers in kinds.items():
            text = _with_places(text, name, [_place(wanted[number].chip, _times(wanted[number])) for number in numbers])
        return _with_places(text, companions_part, [_place(item.chip, _moments(item)) for item in anchored])


def question_expression(
    api: Any,
    wanted: Sequence[Wanted],
    anchored: Sequence[Anchored],
    specs: Sequence[ArraySpec],
    *,
    candidates: int,
    gap_days: float,
) -> str:
    """One request of `Questions`."""

    def encode(form: Form) -> str:
        return encode_form(api, form, specs, candidates=candidates, gap_days=gap_days)

    return Questions(specs, encode).expression(wanted, anchored)


def read_question(
    wanted: Sequence[Wanted], anchored: Sequence[Anchored], specs: Sequence[ArraySpec], answer: Any
) -> Answers:
    """What `question_expression` brought. Raises ValueError for an answer to something else."""
    if not isinstance(answer, dict):
        raise ValueError(f"the answer has {type(answer).__name__}, not the parts that were asked for")
    scenes: dict[int, tuple[Candidate, ...]] = {}
    for name, numbers in _by_kind(wanted).items():
        for number, found in zip(numbers, _of_length(answer.get(name), len(numbers), "places"), strict=True):
            level = wanted[number].level
            scenes[number] = tuple(_candidate(level, rank, item) for rank, item in enumerate(found))
    companions = _of_length(answer.get(companions_part, []), len(anchored), "anchors")
    return Answers(
        scenes=tuple(scenes[number] for number in range(len(wanted))),
        companions=tuple(_companions(item, specs, found) for item, found in zip(anchored, companions, strict=True)),
    )


def _by_kind(wanted: Sequence[Wanted]) -> dict[str, list[int]]:
    """Positions of the questions that one function on the server answers, by the name of their part, in order of it."""
    kinds: dict[str, list[int]] = {}
    for number, item in enumerate(wanted):
        kinds.setdefault(f"{item.level}{'' if item.wish_ms is None else '_near'}", []).append(number)
    return dict(sorted(kinds.items()))


def _of_length(found: Any, length: int, what: str) -> list[Any]:
    if not isinstance(found, list) or len(found) != length:
        raise ValueError(f"asked about {length} {what}, the answer has {_length(found)}")
    return found


def _mark(name: str) -> str:
    return f"@places of {name}@"


def _with_places(text: str, name: str, places: Sequence[Any]) -> str:
    if not places:
        return text
    mark = json.dumps({"constantValue": [_mark(name)]})
    if text.count(mark) != 1:
        raise ValueError(f"the client encodes a list of places otherwise than expected: {name}")
    return text.replace(mark, json.dumps({"arrayValue": {"values": places}}))


def _place(chip: ChipGrid, numbers: Mapping[str, Any]) -> Any:
    """The node of a feature with the square of a place and its numbers, each constant written out."""
    crs = f"EPSG:{chip.epsg}"
    square = _call(
        "GeometryConstructors.Rectangle",
        coordinates={"constantValue": [chip.xmin, chip.ymax - chip.side_m, chip.xmin + chip.side_m, chip.ymax]},
        crs=_call("Projection", crs={"constantValue": crs}),
        geodesic={"constantValue": False},
    )
    return _call("Feature", geometry=square, metadata={"constantValue": {"crs": crs, **numbers}})


def _call(function: str, **arguments: Any) -> Any:
    return {"functionInvocationValue": {"functionName": function, "arguments": arguments}}


def _times(item: Wanted) -> dict[str, Any]:
    return {"end": item.end_ms, "start": item.start_ms, "wish": item.wish_ms or 0}


def _moments(item: Anchored) -> dict[str, Any]:
    return {
        **({"dates": list(item.dates)} if item.dates else {}),
        "index": item.index,
        "month_end": _month_ms(_next(item.month)),
        "month_start": _month_ms(months_until(*item.month)[0]),
        "points": [list(point) for point in item.points],
        "season_end": _month_ms((item.month[0], 12)),
        "season_start": _month_ms((item.month[0] - 1, 12)),
        "time": item.time_ms,
        "year_end": item.year[1],
        "year_start": item.year[0],
    }


def _scenes(api: Any, places: Any, level: str, dated: bool, candidates: int) -> Any:
    def ask(element: Any) -> Any:
        chip = _Chip(api, element)
        collection = level_collections["l1c" if level == either_level else level]
        found = chip.images(collection).filterDate(chip.date("start"), chip.date("end"))
        ranked = chip.by_distance(found, chip.number("wish")) if dated else found.sort("CLOUDY_PIXEL_PERCENTAGE")
        return chip.scored_all(ranked, candidates, processed=level == either_level)

    return places.map(ask)


def _companions_of(api: Any, places: Any, specs: Sequence[ArraySpec], levels: Sequence[str], gap_days: float) -> Any:
    recipes = {spec.recipe for spec in specs}

    def ask(element: Any) -> Any:
        chip = _Chip(api, element)
        answer: dict[str, Any] = {}
        for spec in specs:
            if spec.recipe in recipes_of_passes:
                answer.setdefault(pass_array(spec), chip.passes(spec, gap_days))
            elif spec.recipe == radar_dates:
                answer[spec.name] = chip.dated_passes(spec, gap_days)
            elif _lists_images(spec):
                answer[spec.name] = chip.listed(chip.of_window(spec))
            elif spec.temporal is Temporal.STATIC:
                answer[spec.name] = api.List([chip.described(api.Image(source)) for source in spec.source])
        if "era5" in recipes:
            source = next(spec.source[0] for spec in specs if spec.recipe == "era5")
            answer["climate"] = chip.climate(source)
        if "sentinel2_cloud" in recipes:
            answer["cloud_scores"] = chip.listed(chip.of_index(cloud_score_collection))
            classified = chip.of_index(level_collections["l2a"]).map(_with_band_names)
            answer["classifications"] = chip.listed(classified.filter(api.Filter.listContains("m3etl_bands", "SCL")))
        for level in levels:
            answer[f"other_{level}"] = chip.scored_all(chip.of_index(level_collections[level]), 1)
        return api.Dictionary(answer)

    return places.map(ask)


class _Chip:
    """Server-side questions about one chip; `element` is a feature with the chip's square and its numbers."""

    def __init__(self, api: Any, element: Any) -> None:
        self._api = api
        self._feature = api.Feature(element)
        self._square = self._feature.geometry()
        self._crs = api.Projection(self._feature.get("crs"))

    def number(self, name: str) -> Any:
        return self._feature.getNumber(name)

    def date(self, name: str) -> Any:
        return self._api.Date(self.number(name))

    def images(self, collection: str) -> Any:
        return self._api.ImageCollection(collection).filterBounds(self._square)

    def of_window(self, spec: ArraySpec) -> Any:
        """Images of a spec's collection over the chip, of its window in time, with the properties it asks for."""
        images = self.images(spec.source[0])
        if spec.program is not None:
            images = filtered(self._api, images, spec.program.filters)
        match spec.temporal:
            case Temporal.YEAR:
                return images.filterDate(self.date("year_start"), self.date("year_end"))
            case Temporal.SEASONS:
                return images.filterDate(self.date("season_start"), self.date("season_end"))
            case Temporal.NEAREST:
                time, gap = self.number("time"), spec.max_gap_days * day_ms
                return images.filterDate(self._api.Date(time.subtract(gap)), self._api.Date(time.add(gap + 1)))
            case _:
                return images

    def of_index(self, collection: str) -> Any:
        index = self._feature.getString("index")
        return self.images(collection).filter(self._api.Filter.eq("system:index", index))

    def by_distance(self, images: Any, moment: Any) -> Any:
        """Images, the nearest in time to a moment first."""

        def set_distance(image: Any) -> Any:
            return image.set("m3etl_distance", image.getNumber("system:time_start").subtract(moment).abs())

        return images.map(set_distance).sort("m3etl_distance")

    def mean(self, image: Any, scale: float) -> Any:
        return image.reduceRegion(
            reducer=self._api.Reducer.mean(), geometry=self._square, crs=self._crs, scale=scale, maxPixels=1e7
        )

    def described(self, image: Any) -> Any:
        return self._api.Dictionary(
            {
                "index": image.get("system:index"),
                "time": image.get("system:time_start"),
                "license": image.get("license"),
                "synthetic": image.get("synthetic"),
            }
        )

    def scored(self, element: Any) -> Any:
        """One Sentinel-2 scene and the means over the chip of valid, and of cloudy by each source that exists."""
        api = self._api
        image = api.Image(element)
        bands = _named(api, image, ["B4", "SCL", "QA60"])
        index = image.getString("system:index")
        scores = self.images(cloud_score_collection).filter(api.Filter.eq("system:index", index)).select(["cs_cdf"])
        absent = api.Image.constant([0]).rename(["cs_cdf"]).selfMask()
        cdf = api.ImageCollection([absent]).merge(scores).mosaic()
        scl = bands.select(["SCL"])
        valid = bands.select(["B4"]).mask().unmask(0, False).rename(["valid"])
        cloudy = scl.remap(list(cloudy_scl), [1] * len(cloudy_scl), 0).updateMask(scl.neq(0)).rename(["scl"])
        opaque = bands.select(["QA60"]).toUint16().bitwiseAnd(qa60_bits).neq(0).rename(["qa60"])
        means = self.mean(
            valid.addBands(cdf.lt(cloudy_below).rename(["cs"])).addBands(cloudy).addBands(opaque), score_gsd_m
        )
        return self.described(image).combine({"means": means, "has_score": scores.size().gt(0)})

    def processed(self, element: Any) -> Any:
        """A level 1C scene scored as its level 2A where that exists, and whether it does."""
        api = self._api
        index = api.Image(element).getString("system:index")
        same = self.images(level_collections["l2a"]).filter(api.Filter.eq("system:index", index))
        either = same.toList(1).cat(api.List([element])).get(0)
        return self.scored(either).combine({"processed": same.size()})

    def scored_all(self, images: Any, count: int, *, processed: bool = False) -> Any:
        """The first `count` scenes, scored; `processed`: as level 2A where that exists."""

        def score(element: Any) -> Any:  # the client would count the `self` of a method
            return self.processed(element) if processed else self.scored(element)

        return images.limit(count).toList(count).map(score)

    def passes(self, spec: ArraySpec, gap_days: float) -> Any:
        """Sentinel-1 images of a spec's orbit pass near the anchor, nearest first, with their share of the chip."""
        return self._passes(spec, gap_days, self.number("time"))

    def dated_passes(self, spec: ArraySpec, gap_days: float) -> Any:
        """The same near each of the dates."""

        def ask(moment: Any) -> Any:  # the client would count the `self` of a method
            return self._passes(spec, gap_days, self._api.Number(moment))

        return self._api.List(self._feature.get("dates")).map(ask)

    def _passes(self, spec: ArraySpec, gap_days: float, time: Any) -> Any:
        api = self._api
        orbit_pass = "ASCENDING" if pass_array(spec).endswith("_asc") else "DESCENDING"
        gap = min(gap_days, spec.max_gap_days)
        near = (
            self.images(spec.source[0])
            .filterDate(api.Date(time.subtract(gap * day_ms)), api.Date(time.add(gap * day_ms + 1)))
            .filter(api.Filter.eq("instrumentMode", "IW"))
            .filter(api.Filter.eq("orbitProperties_pass", orbit_pass))
        )

        def describe(element: Any) -> Any:
            image = api.Image(element)
            observed = image.select([0]).mask().unmask(0, False).rename(["covered"])
            return self.described(image).combine(
                {
                    "orbit": image.get("relativeOrbitNumber_start"),
                    "polarisations": image.get("transmitterReceiverPolarisation"),
                    "means": self.mean(observed, score_gsd_m),
                }
            )

        return self.by_distance(near, time).limit(most_passes).toList(most_passes).map(describe)

    def listed(self, images: Any) -> Any:
        """Indices and times of images in order of time, and the distinct licences."""
        ordered = images.sort("system:time_start")  # all of them: a limit would leave out the end of the year
        return self._api.Dictionary(
            {
                "indices": ordered.aggregate_array("system:index"),
                "times": ordered.aggregate_array("system:time_start"),
                "licenses": ordered.aggregate_array("license").distinct(),
                "synthetic": ordered.aggregate_array("synthetic").distinct(),
            }
        )

    def climate(self, collection: str) -> Any:
        """Monthly values of the 12 months that end with the anchor's, at each of the points."""
        api = self._api
        points = api.List(self._feature.get("points"))
        months = api.ImageCollection(collection).filterDate(self.date("month_start"), self.date("month_end"))

        def describe(element: Any) -> Any:
            image = api.Image(element)

            def values(point: Any) -> Any:
                geometry = api.Geometry.Point(api.List(point))
                return image.select(list(climate_bands)).reduceRegion(reducer=api.Reducer.first(), geometry=geometry)

            return self.described(image).combine({"values": points.map(values)})

        return months.sort("system:time_start").toList(13).map(describe)


def _named(api: Any, image: Any, bands: list[str]) -> Any:
    absent = api.Image.constant([0] * len(bands)).rename(bands).selfMask()
    return absent.addBands(image, None, True).select(bands)


def _with_band_names(image: Any) -> Any:
    return image.set("m3etl_bands", image.bandNames())


def _month_ms(month: tuple[int, int]) -> int:
    return round(datetime(month[0], month[1], 1, tzinfo=UTC).timestamp() * 1000)


def _next(month: tuple[int, int]) -> tuple[int, int]:
    return (month[0] + 1, 1) if month[1] == 12 else (month[0], month[1] + 1)


def _length(answer: Any) -> str:
    return str(len(answer)) if isinstance(answer, list) else type(answer).__name__


def _candidate(level: str, rank: int, item: Mapping[str, Any]) -> Candidate:
    means = item["means"]
    cloud = next((means[name] for name in ("cs", "scl", "qa60") if means.get(name) is not None), None)
    if level == either_level:
        level = "l2a" if item["processed"] else "l1c"
    return Candidate(
        level=level,
        scene_id=f"{level_collections[level]}/{item['index']}",
        index=str(item["index"]),
        time_ms=round(item["time"]),
        rank=rank,
        valid=_fraction(means.get("valid")) or 0.0,
        cloud=_fraction(cloud),
        has_cloud_score=bool(item.get("has_score")),
        license=str(item.get("license") or ""),
        synthetic=bool(item.get("synthetic")),
    )


def _fraction(value: float | None) -> float | None:
    # Rounded so that a decision never hangs on the last bit of a mean.
    return None if value is None else round(min(1.0, max(0.0, float(value))), 6)


def _companions(item: Anchored, specs: Sequence[ArraySpec], found: Mapping[str, Any]) -> Companions:
    passes, composites, dated = {}, {}, {}
    for spec in specs:
        if spec.recipe == radar_dates:
            near = _of_length(found[spec.name], len(item.dates), "dates")
            dated[spec.name] = tuple(tuple(_pass_image(spec.source[0], image) for image in images) for images in near)
        if spec.recipe in recipes_of_passes:
            passes[spec.name] = tuple(_pass_image(spec.source[0], image) for image in found[pass_array(spec)])
        elif spec.temporal is Temporal.NEAREST:
            composites[spec.name] = _image_list(spec.source[0], _nearest(found[spec.name], item.time_ms))
        elif _lists_images(spec):
            composites[spec.name] = _image_list(spec.source[0], found[spec.name])
        elif spec.temporal is Temporal.STATIC:
            composites[spec.name] = _map_list(spec.source, found[spec.name])
    months = found.get("climate", [])
    other = [
        _candidate(item.other_level, rank, scene)
        for rank, scene in enumerate(found.get(f"other_{item.other_level}", []) if item.other_level else [])
    ]
    climate_source = next((spec.source[0] for spec in specs if spec.recipe == "era5"), "")
    return Companions(
        other=tuple(other),
        passes=passes,
        dated_passes=dated,
        composites=composites,
        months=tuple(
            {
                year_of(month["time"]): tuple(month["values"][number].get(band) for band in climate_bands)
                for month in months
            }
            for number in range(len(item.points))
        ),
        climate=_map_list([f"{climate_source}/{month['index']}" for month in months], months),
        cloud_scores=_image_list(cloud_score_collection, found.get("cloud_scores", {})),
        classifications=_image_list(level_collections["l2a"], found.get("classifications", {})),
    )


def _lists_images(spec: ArraySpec) -> bool:
    """Whether planning names the images that an array is made of, rather than the catalogue."""
    if spec.program is not None:
        return spec.program.is_collection
    return spec.recipe in recipes_of_collections


def _nearest(found: Mapping[str, Any], anchor_ms: int) -> Mapping[str, Any]:
    """The images of the acquisition nearest to a moment: neighbouring tiles are minutes apart at most."""
    times = found.get("times", [])
    if not times:
        return found
    nearest = min(times, key=lambda time: (abs(time - anchor_ms), time))
    chosen = [number for number, time in enumerate(times) if abs(time - nearest) <= one_acquisition_ms]
    return {**found, "indices": [found["indices"][n] for n in chosen], "times": [times[n] for n in chosen]}


def _pass_image(collection: str, image: Mapping[str, Any]) -> PassImage:
    orbit = image.get("orbit")
    return PassImage(
        scene_id=f"{collection}/{image['index']}",
        time_ms=round(image["time"]),
        orbit=-1 if orbit is None else int(orbit),
        polarisations=tuple(image.get("polarisations") or ()),
        coverage=_fraction(image["means"].get("covered")) or 0.0,
        license=str(image.get("license") or ""),
        synthetic=bool(image.get("synthetic")),
    )


def _image_list(collection: str, found: Mapping[str, Any]) -> ImageList:
    indices = found.get("indices", [])
    times = found.get("times", [])
    return ImageList(
        scene_ids=tuple(f"{collection}/{index}" for index in indices),
        time_ms=round(times[0]) if times else None,
        licenses=tuple(sorted(str(item) for item in found.get("licenses", []) if item)),
        synthetic=any(bool(item) for item in found.get("synthetic", [])),
    )


def _map_list(scene_ids: Sequence[str], described: Sequence[Mapping[str, Any]]) -> ImageList:
    times = [item["time"] for item in described if item.get("time") is not None]
    return ImageList(
        scene_ids=tuple(scene_ids),
        time_ms=round(min(times)) if times else None,
        licenses=tuple(sorted({str(item["license"]) for item in described if item.get("license")})),
        synthetic=any(bool(item.get("synthetic")) for item in described),
    )
