"""What each array of a chip is made of, once the anchor and its companions are known. Nothing here asks anybody."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from m3etl.io.planning import Anchored, Companions, ImageList, cloud_score_collection, recipes_of_passes
from m3etl.spec.catalog_dates import cloud_dates, radar_dates, recipes_of_dates
from m3etl.spec.chipgrid import ChipGrid
from m3etl.spec.jobs import ArrayScenes, ArrayStatus, ChipScenes
from m3etl.spec.modality import ArraySpec, Temporal
from m3etl.spec.scenes import (
    Candidate,
    PassImage,
    choose_pass,
    climate_features,
    day_ms,
    same_acquisition,
    utc_text,
    year_window,
)

static_years = {"aster_elevation": 2013, "aster_slope": 2013, "canopy_height": 2020, "worldcover": 2020,
                "worldcover_2021": 2021}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanChip:
    """What the plan says about a chip. wish_ms: the wished moment of the anchor, None without one.

    anchor: the scene that was chosen before, where further arrays are planned around it.
    """

    grid: ChipGrid
    lon: float
    lat: float
    year: int
    biome: int
    ecoregion: int
    wish_ms: int | None
    anchor: Candidate | None = None

    @property
    def chip_id(self) -> str:
        """The chip's id."""
        return self.grid.chip_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One chip with the anchor of its place and what belongs to it. point: position of the chip among the place's.

    max_gap_days: of Sentinel-1 to the anchor; min_coverage: of the chip by one pass; dates: the scene of each season
    where these are wanted.
    """

    chip: PlanChip
    point: int
    anchor: Candidate | None
    anchored: Anchored
    found: Companions
    max_gap_days: float
    min_coverage: float
    dates: Mapping[str, Candidate | None] = field(default_factory=dict)

    def scenes(self, specs: Sequence[ArraySpec]) -> ChipScenes:
        """The fixed decision about the chip."""
        return ChipScenes(
            chip_id=self.chip.chip_id,
            year=self.anchored.month[0],
            anchor_id=self.anchor.scene_id if self.anchor else None,
            anchor_time=utc_text(self.anchored.time_ms),
            arrays={spec.name: self.array(spec) for spec in specs},
        )

    def array(self, spec: ArraySpec) -> ArrayScenes:
        """What one array is made of."""
        if spec.recipe in recipes_of_dates:
            return self._dated(spec)
        if spec.recipe == "sentinel2":
            return self._sentinel2(spec)
        if spec.recipe == "sentinel2_cloud":
            return self._cloud(spec)
        if spec.recipe in recipes_of_passes:
            return self._sentinel1(spec)
        if spec.recipe == "era5":
            values = climate_features(self.found.months[self.point], *self.anchored.month)
            return _vector(spec, [values[name] for name in spec.bands], self.found.climate)
        if spec.temporal in (Temporal.PLACE, Temporal.TIME):
            return _computed(spec, self.chip, self.anchored.month[1])
        return self._composite(spec, self.found.composites.get(spec.name, ImageList()))

    def _sentinel2(self, spec: ArraySpec) -> ArrayScenes:
        anchor, anchored = self.anchor, self.anchored
        level = spec.name.rpartition("_")[2]
        scene: Candidate | None = anchor
        if anchor is not None and anchor.level != level:
            wanted = anchored.other_level == level
            scene = same_acquisition(self.found.other, anchor.index) if wanted else None
        if scene is None:
            return ArrayScenes(status=ArrayStatus.NO_SCENE)
        return self._of_scene(spec, scene, anchored.time_ms)

    def _of_scene(self, spec: ArraySpec, scene: Candidate, anchor_ms: int) -> ArrayScenes:
        return ArrayScenes(
            status=ArrayStatus.OK,
            scene_ids=(scene.scene_id,),
            time=utc_text(scene.time_ms),
            gap_days=_gap(scene.time_ms, anchor_ms),
            cloud_fraction=self._of_chip(scene.cloud),
            valid_fraction=self._of_chip(scene.valid),
            license=_license(spec, [scene.license], scene.synthetic),
            synthetic=scene.synthetic,
        )

    def _cloud(self, spec: ArraySpec) -> ArrayScenes:
        sources = (self.found.cloud_scores, self.found.classifications)
        scene_ids = tuple(scene_id for source in sources for scene_id in source.scene_ids[:1])
        if self.anchor is None or not scene_ids:
            return ArrayScenes(status=ArrayStatus.NO_SCENE)
        synthetic = any(source.synthetic for source in sources)
        return ArrayScenes(
            status=ArrayStatus.OK,
            scene_ids=scene_ids,
            time=utc_text(self.anchor.time_ms),
            gap_days=0.0,
            cloud_fraction=self._of_chip(self.anchor.cloud),
            license=_license(spec, [item for source in sources for item in source.licenses], synthetic),
            synthetic=synthetic,
        )

    def _dated(self, spec: ArraySpec) -> ArrayScenes:
        """One decision for each season: its scene is its anchor, or the middle of the season where it has none."""
        return ArrayScenes.of_periods(
            {period: self._of_date(spec, number, period) for number, period in enumerate(spec.periods)}
        )

    def _of_date(self, spec: ArraySpec, number: int, period: str) -> ArrayScenes:
        scene = self.dates.get(period)
        if spec.recipe == radar_dates:
            near = self.found.dated_passes.get(spec.name, ())
            images = near[number] if near else ()
            return self._of_pass(spec, images, self.anchored.dates[number], has_anchor=scene is not None)
        if scene is None:
            return ArrayScenes(status=ArrayStatus.NO_SCENE)
        found = self._of_scene(spec, scene, scene.time_ms)
        if spec.recipe != cloud_dates:
            return found
        score = (f"{cloud_score_collection}/{scene.index}",) if scene.has_cloud_score else ()
        return replace(found, scene_ids=(*score, scene.scene_id), valid_fraction=None)

    def _sentinel1(self, spec: ArraySpec) -> ArrayScenes:
        images = self.found.passes.get(spec.name, ())
        return self._of_pass(spec, images, self.anchored.time_ms, has_anchor=self.anchor is not None)

    def _of_pass(
        self, spec: ArraySpec, images: Sequence[PassImage], anchor_ms: int, *, has_anchor: bool
    ) -> ArrayScenes:
        chosen = choose_pass(
            images,
            anchor_ms,
            max_gap_days=min(spec.max_gap_days, self.max_gap_days),
            min_coverage=self.min_coverage,
        )
        if not chosen:
            return ArrayScenes(status=ArrayStatus.NO_SCENE)
        coverage = round(min(1.0, sum(item.coverage for item in chosen)), 6)  # slices may overlap: an upper bound
        is_block = self.anchored.chip.chips > 1
        return ArrayScenes(
            status=ArrayStatus.OK,
            scene_ids=tuple(item.scene_id for item in chosen),
            time=utc_text(chosen[0].time_ms),
            gap_days=_gap(chosen[0].time_ms, anchor_ms) if has_anchor else None,
            valid_fraction=None if is_block and len(chosen) > 1 else self._of_chip(coverage),
            license=_license(spec, [item.license for item in chosen], any(item.synthetic for item in chosen)),
            synthetic=any(item.synthetic for item in chosen),
        )

    def _composite(self, spec: ArraySpec, images: ImageList) -> ArrayScenes:
        if not images.scene_ids:
            return ArrayScenes(status=ArrayStatus.NO_SCENE)
        time_ms = images.time_ms
        if time_ms is None and spec.name in static_years:
            time_ms = year_window(static_years[spec.name])[0]
        is_near = spec.temporal is Temporal.NEAREST and self.anchor is not None
        return ArrayScenes(
            status=ArrayStatus.OK,
            scene_ids=images.scene_ids,
            time=None if time_ms is None else utc_text(time_ms),
            gap_days=_gap(time_ms, self.anchored.time_ms) if is_near and time_ms is not None else None,
            license=_license(spec, images.licenses, images.synthetic),
            synthetic=images.synthetic,
        )

    def _of_chip(self, share: float | None) -> float | None:
        # Over a block only nothing and everything say what share of each chip it is.
        return share if self.anchored.chip.chips == 1 or share in (0.0, 1.0) else None


def _gap(time_ms: int, anchor_ms: int) -> float:
    return round((time_ms - anchor_ms) / day_ms, 6)


def _license(spec: ArraySpec, licenses: Sequence[str], synthetic: bool) -> str:
    stated = sorted({item for item in licenses if item})
    if stated:
        return " AND ".join(stated)
    return "synthetic" if synthetic else spec.license


def _vector(spec: ArraySpec, values: Sequence[float | None], images: ImageList) -> ArrayScenes:
    known = any(value is not None for value in values)
    return ArrayScenes(
        status=ArrayStatus.OK if known else ArrayStatus.NO_SCENE,
        scene_ids=images.scene_ids if known else (),
        time=None if images.time_ms is None or not known else utc_text(images.time_ms),
        values=tuple(values),
        license=_license(spec, images.licenses, images.synthetic) if known else "",
        synthetic=images.synthetic and known,
    )


def _computed(spec: ArraySpec, chip: PlanChip, month: int) -> ArrayScenes:
    lat, lon, turn = math.radians(chip.lat), math.radians(chip.lon), 2 * math.pi * month / 12
    values: dict[str, float | None] = {
        "biome": float(chip.biome) if chip.biome >= 0 else None,
        "ecoregion": float(chip.ecoregion) if chip.ecoregion >= 0 else None,
        "sin_lat": math.sin(lat),
        "cos_lat": math.cos(lat),
        "sin_lon": math.sin(lon),
        "cos_lon": math.cos(lon),
        "sin_month": math.sin(turn),
        "cos_month": math.cos(turn),
    }
    chosen = tuple(values[band] for band in spec.bands)
    known = chosen[0] is not None
    return ArrayScenes(
        status=ArrayStatus.OK if known else ArrayStatus.NO_SCENE,
        scene_ids=spec.source if known else (),
        values=chosen,
        license=spec.license if known else "",
    )
