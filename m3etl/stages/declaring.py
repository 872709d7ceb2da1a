"""Tries a user's declarations on one pilot chip: are asset and bands there, and what would be stored."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from m3etl.errors import InputError, RemoteError
from m3etl.io.answers import arrays_of, read_answer
from m3etl.io.earthengine import Session
from m3etl.io.outcomes import Kind, RequestFailed
from m3etl.io.pixels import PixelJob, expression_of, plan_requests
from m3etl.io.planning import Anchored, question_expression, read_question
from m3etl.io.programs import filtered, is_hook, load_hook
from m3etl.io.segments import Part
from m3etl.spec.chipgrid import ChipGrid
from m3etl.spec.jobs import ArrayScenes, ArrayStatus
from m3etl.spec.lattice import cells_of_lonlat
from m3etl.spec.modality import ArraySpec, physical_of, valid_of
from m3etl.spec.scenes import year_window
from m3etl.stages.decisions import Decision, PlanChip
from m3etl.stages.summary import Summary

looked_at = 20  # images of a collection whose bands are asked for
about_asset = (Kind.SOURCE_CHANGED, Kind.DETERMINISTIC, Kind.NO_DATA)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pilot:
    """Where and when declarations are tried: degrees, and the year whose 1 July is the anchor."""

    lon: float
    lat: float
    year: int
    chip_px: int

    def chip(self) -> PlanChip:
        """The lattice cell of the place. InputError where there is none."""
        cells, reachable = cells_of_lonlat(np.array([self.lon]), np.array([self.lat]), self.chip_px * 10)
        if not reachable[0]:
            raise InputError(f"there is no chip at {self.lon}, {self.lat}", hint="Use a latitude between 80S and 84N.")
        west, _, _, north = (float(edge[0]) for edge in cells.bounds_xy)
        grid = ChipGrid(
            chip_id=cells.chip_ids()[0], epsg=int(cells.epsg[0]), xmin=west, ymax=north, chip_px=self.chip_px
        )
        return PlanChip(grid=grid, lon=self.lon, lat=self.lat, year=self.year, biome=-1, ecoregion=-1, wish_ms=None)


def check_assets(session: Session, specs: Sequence[ArraySpec], *, text: str, file: str, pilot: Pilot) -> None:
    """Raise InputError, with lines, where an asset can't be read or has none of a declared band at the pilot place.

    One request per array; nothing is sent beyond these questions. RemoteError where the service does not answer.
    """
    problems = list(_hook_problems(specs, text, file))
    for spec in specs:
        at = f"{file}:{line_of(text, spec.name, 'asset')}"
        try:
            bands = session.compute_value(_bands_of(session.api, spec, pilot))
        except RequestFailed as failed:
            if failed.failure.kind not in about_asset:
                raise RemoteError(
                    f"the asset of {spec.name} could not be asked for: {failed.failure.message}"
                ) from None
            problems.append(f"{at}: the asset {spec.source[0]} can't be read: {failed.failure.message}")
            continue
        if not bands:
            continue  # no image here: the pilot's chip says so
        program = spec.program
        wanted = () if program is None or is_hook(spec) else (*program.bands, *(mask.band for mask in program.masks))
        missing = [band for band in dict.fromkeys(wanted) if band not in bands]
        if missing:
            line = line_of(text, spec.name, "bands")
            problems.append(
                f"{file}:{line}: {spec.source[0]} has no band {', '.join(missing)}; it has {', '.join(bands[:20])}"
            )
    if problems:
        raise InputError("\n".join(problems), hint="`m3etl modalities check FILE` tries the file after mending.")


def run_declaration_check(session: Session, specs: Sequence[ArraySpec], *, pilot: Pilot) -> Summary:
    """What each array would store at the pilot chip: one row a band in `bands`, one an array in `arrays`.

    `rejected` counts arrays of which nothing is there. Raises RemoteError where the service refuses a request.
    """
    started = time.monotonic()
    chip = pilot.chip()
    scenes = _scenes(session, chip, specs, pilot)
    fetched = {spec.name: _fetch(session, chip, spec, scenes[spec.name]) for spec in specs}
    arrays, bands = [], []
    for spec in specs:
        stored = fetched[spec.name]
        planned = scenes[spec.name]
        arrays.append(
            {
                "array": spec.name,
                "images": len(planned.scene_ids),
                "first": planned.time or "",
                "size": " x ".join(map(str, spec.with_periods(spec.chip_shape(chip.grid.chip_m)))),
                "stored as": spec.dtype if spec.scale == 1 else f"{spec.dtype} x {spec.scale:g}",
                "status": "ok" if stored is not None and valid_of(spec, stored).any() else "nothing here",
            }
        )
        bands += [] if stored is None else _band_rows(spec, stored)
    empty = sum(row["status"] != "ok" for row in arrays)
    return Summary(
        stage="check",
        done=len(arrays) - empty,
        rejected=empty,
        seconds=time.monotonic() - started,
        facts={"pilot chip": chip.chip_id, "arrays": arrays, "bands": bands},
    )


def _hook_problems(specs: Sequence[ArraySpec], text: str, file: str) -> Iterator[str]:
    for spec in specs:
        if is_hook(spec):
            try:
                load_hook(spec)
            except InputError as error:
                yield f"{file}:{line_of(text, spec.name, 'hook')}: {error.message}. {error.hint}"


def line_of(text: str, array: str, key: str) -> int:
    """The line of a key in the [[array]] with this name, 1 where it can't be found."""
    lines = text.splitlines()
    starts = [index for index, line in enumerate(lines) if line.replace(" ", "").startswith("[[array]]")]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        block = lines[start:end]
        if any(re.match(rf"\s*name\s*=\s*[\"']{re.escape(array)}[\"']", line) for line in block):
            return next((start + n + 1 for n, line in enumerate(block) if re.match(rf"\s*{key}\s*=", line)), start + 1)
    return 1


def _bands_of(api: Any, spec: ArraySpec, pilot: Pilot) -> Any:
    """Names of the bands of the image, or of some of the collection at the place, since images of one collection
    differ (polarisations of early radar): the first ones of all and of the pilot's year. Empty without an image.
    """
    if spec.program is None or not spec.program.is_collection:
        return api.Image(spec.source[0]).bandNames()
    place = api.Geometry.Point([pilot.lon, pilot.lat])
    images = filtered(api, api.ImageCollection(spec.source[0]).filterBounds(place), spec.program.filters)
    start, end = year_window(pilot.year)
    some = images.limit(looked_at).merge(images.filterDate(start, end).limit(looked_at))
    return some.toList(2 * looked_at).map(lambda image: api.Image(image).bandNames()).flatten().distinct()


def _scenes(session: Session, chip: PlanChip, specs: Sequence[ArraySpec], pilot: Pilot) -> dict[str, ArrayScenes]:
    july = round(datetime(pilot.year, 7, 1, tzinfo=UTC).timestamp() * 1000)
    anchored = Anchored(
        chip=chip.grid,
        points=((chip.lon, chip.lat),),
        time_ms=july,
        index="",
        year=year_window(pilot.year),
        month=(pilot.year, 7),
    )
    try:
        answer = session.compute_value(
            question_expression(session.api, [], [anchored], specs, candidates=1, gap_days=30.0)
        )
    except RequestFailed as failed:
        raise RemoteError(f"the pilot chip could not be planned: {failed.failure.message}") from failed
    (found,) = read_question([], [anchored], specs, answer).companions
    decision = Decision(
        chip=chip, point=0, anchor=None, anchored=anchored, found=found, max_gap_days=30.0, min_coverage=0.0
    )
    return {spec.name: decision.array(spec) for spec in specs}


def _fetch(session: Session, chip: PlanChip, spec: ArraySpec, scenes: ArrayScenes) -> Any:
    """The stored array of the pilot chip; None where planning found no image."""
    if scenes.status is not ArrayStatus.OK:
        return None
    job = PixelJob(chip=chip.grid, specs={spec.name: spec}, scenes={spec.name: scenes}, check=False)
    parts = []
    for request in plan_requests(job):
        try:
            body = session.compute_pixels(expression_of(request))
            read_answer(request, body)
        except RequestFailed as failed:
            raise RemoteError(f"{spec.name} could not be fetched: {failed.failure.message}") from failed
        parts.append(Part(asked=request.asked(), body=body))
    return arrays_of(parts, {spec.name: spec}, chip.grid, {})[spec.name]


def _band_rows(spec: ArraySpec, stored: Any) -> list[Mapping[str, Any]]:
    rows: list[Mapping[str, Any]] = []
    physical = physical_of(spec, stored)
    for band, values in zip(spec.bands, physical, strict=True):
        known = values[np.isfinite(values)]
        found: dict[str, Any] = {"array": spec.name, "band": band, "valid": round(known.size / values.size, 4)}
        for name, measure in (("min", np.min), ("mean", np.mean), ("max", np.max)):
            found[name] = float(f"{measure(known):.5g}") if known.size else None
        rows.append({**found, "units": spec.units})
    return rows
