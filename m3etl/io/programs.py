"""Programs of the catalogue as Earth Engine graphs: the images that planning named, masked, converted, resampled each
on its own grid, reduced by period. `api` is the client's module, as elsewhere on this edge.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from m3etl.errors import InputError
from m3etl.spec.modality import ArraySpec, Resampling, hook_prefix
from m3etl.spec.program import Comparison, Filter, Mask, Output, Program, periods

Image = Any
_power_of_decibel = math.log(10) / 10


def program_image(api: Any, spec: ArraySpec, scene_ids: Sequence[str]) -> Image:
    """The array's bands in stored units (not yet rounded, masked where nothing was observed).

    scene_ids: the images that planning fixed, in order of time; the later lies on top where they are mosaicked.
    """
    program = spec.program
    if program is None:
        raise ValueError(f"{spec.name} is made by the recipe {spec.recipe}, it has no program")
    images = api.ImageCollection([api.Image(scene_id) for scene_id in scene_ids])
    prepared = images.map(lambda image: _prepared(api, program, spec, image))
    absent = _absent(api, program.bands)
    parts = []
    for (period, reducer), group in groupby(program.outputs, key=lambda output: (output.period, output.reducer)):
        outputs = tuple(group)
        reduced = _reduced(api, prepared, absent, period, reducer, outputs)
        parts.append(_in_stored_units(spec, program, reduced, reducer))
    combined = parts[0]
    for part in parts[1:]:
        combined = combined.addBands(part)
    return combined.select(list(spec.bands))


def hook_image(api: Any, spec: ArraySpec, scene_ids: Sequence[str]) -> Image:
    """The array's bands in stored units, made by a function of the user's own.

    The function gets the client's module and a collection of the images that planning fixed, in order of time, and
    returns an image with the declared bands in physical units, masked where nothing was observed.
    """
    images = api.ImageCollection([api.Image(scene_id) for scene_id in scene_ids])
    made = api.Image(load_hook(spec)(api, images)).select(list(spec.bands))
    return _scaled(spec, made)


def is_hook(spec: ArraySpec) -> bool:
    """Whether a function of the user's own makes an array."""
    return spec.recipe.startswith(hook_prefix)


def load_hook(spec: ArraySpec) -> Callable[[Any, Any], Any]:
    """The function that the array's recipe names. InputError where it can't be had."""
    module, _, name = spec.recipe.removeprefix(hook_prefix).partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"the hook {module}:{name} of {spec.name} can't be had: {error}",
            hint="Its module must be installed, or its folder named in PYTHONPATH.",
        ) from error
    if not callable(found):
        raise InputError(f"the hook {module}:{name} of {spec.name} is no function, found {type(found).__name__}")
    return found  # type: ignore[no-any-return]


def terrain_image(api: Any, spec: ArraySpec, scene_ids: Sequence[str]) -> Image:
    """Elevation, slope in degrees or the sine and cosine of the aspect of a model, as floats.

    Slope and aspect are computed on the model's own grid with its neighbours, across tiles too, then resampled: tiles
    are mosaicked first and keep the projection of the first, since a mosaic alone has one of whole degrees.
    """
    tiles = [api.Image(scene_id).select([0], ["elevation"]) for scene_id in scene_ids]
    model = tiles[0] if len(tiles) == 1 else api.ImageCollection(tiles).mosaic()
    native = tiles[0].projection()
    if spec.recipe.endswith("elevation"):
        if len(tiles) > 1:
            model = model.setDefaultProjection(native)
        return model.toFloat().resample("bilinear")
    model = model.setDefaultProjection(native)
    if spec.recipe.endswith("slope"):
        return api.Terrain.slope(model).reproject(native).resample("bilinear")
    turn = api.Terrain.aspect(model).multiply(math.pi / 180.0)
    circle = turn.sin().addBands(turn.cos()).rename(list(spec.bands))
    return circle.reproject(native).resample("bilinear")


def orbit_image(api: Any, spec: ArraySpec, scene_ids: Sequence[str]) -> Image:
    """Incidence angle, layover/shadow code and number of each relative orbit, in ascending order of the number.

    Bands come in threes (inc, lsmap, orbit); slots beyond the orbits that see the chip are masked, as is 0.
    """
    images = api.ImageCollection([api.Image(scene_id) for scene_id in scene_ids])
    slots = len(spec.bands) // 3
    numbers = images.aggregate_array("relative_orbit_number").distinct().sort().cat(api.List.repeat(-1, slots))
    absent = _absent(api, ("inc", "lsmap"))
    parts = []
    for slot in range(slots):
        number = api.Number(numbers.get(slot))
        mine = images.filter(api.Filter.eq("relative_orbit_number", number)).select(["inc", "lsmap"])
        seen = api.ImageCollection([absent]).merge(mine).mosaic()
        seen = seen.updateMask(seen.select(["lsmap"]).neq(0))
        orbit = api.Image.constant(number).toFloat().updateMask(seen.select(["lsmap"]).mask())
        parts.append(seen.addBands(orbit).rename(list(spec.bands[3 * slot : 3 * slot + 3])))
    combined = parts[0]
    for part in parts[1:]:
        combined = combined.addBands(part)
    return combined


def filtered(api: Any, images: Any, filters: Sequence[Filter]) -> Any:
    """A collection's images with the wanted properties."""
    for item in filters:
        value = list(item.value) if isinstance(item.value, tuple) else item.value
        match item.comparison:
            case Comparison.EQUALS:
                condition = api.Filter.eq(item.property, value)
            case Comparison.NOT_EQUALS:
                condition = api.Filter.neq(item.property, value)
            case Comparison.AT_LEAST:
                condition = api.Filter.gte(item.property, value)
            case Comparison.AT_MOST:
                condition = api.Filter.lte(item.property, value)
            case Comparison.CONTAINS:
                condition = api.Filter.listContains(item.property, value)
            case Comparison.ONE_OF:
                condition = api.Filter.inList(item.property, value)
        images = images.filter(condition)
    return images


def _prepared(api: Any, program: Program, spec: ArraySpec, element: Any) -> Image:
    """One image: unwanted pixels masked on its own grid, physical units or linear power, resampling set."""
    image = api.Image(element)
    values = _with_bands(api, image, program.bands) if program.no_data else image
    for mask in program.masks:
        values = values.updateMask(_kept(mask, _with_bands(api, image, (mask.band,))))
    for value in program.no_data:
        values = values.updateMask(values.neq(value))
    if program.decibel:
        values = values.multiply(_power_of_decibel).exp()
    elif (program.source_scale, program.source_offset) != (1.0, 0.0):
        values = values.multiply(program.source_scale).add(program.source_offset)
    if spec.resampling in (Resampling.BILINEAR, Resampling.BILINEAR_LINEAR_POWER):
        values = values.resample("bilinear")
    return _with_bands(api, values, program.bands).set("system:time_start", image.get("system:time_start"))


def _kept(mask: Mask, band: Image) -> Image:
    kept = band.mask()
    if mask.bits:
        flags = sum(1 << bit for bit in mask.bits)
        kept = kept.And(band.toUint32().bitwiseAnd(flags).eq(0))
    if mask.values:
        for value in mask.values:
            kept = kept.And(band.neq(value))
    if mask.at_least is not None:
        kept = kept.And(band.gte(mask.at_least))
    if mask.at_most is not None:
        kept = kept.And(band.lte(mask.at_most))
    return kept


def _absent(api: Any, bands: Sequence[str]) -> Image:
    return api.Image.constant([0.0] * len(bands)).rename(list(bands)).toFloat().selfMask()


def _with_bands(api: Any, image: Image, bands: Sequence[str]) -> Image:
    """Exactly these bands by name; one that the image lacks is there and masked, so that none ever shifts."""
    return _absent(api, bands).addBands(image, None, True).select(list(bands))


def _reduced(api: Any, prepared: Any, absent: Image, period: str, reducer: str, outputs: Sequence[Output]) -> Image:
    """Bands of one period by one reducer, under the names of the outputs; masked where the period has no image."""
    images = prepared
    if period:
        first, last = periods[period]
        images = images.filter(api.Filter.calendarRange(first, last, "month"))
    images = api.ImageCollection([absent]).merge(images)
    sources, names = [output.band for output in outputs], [output.name for output in outputs]
    if reducer == "mosaic":
        return images.mosaic().select(sources, names)
    reduced = images.select(sources).reduce(_reducer(api, outputs[0]))
    if reducer == "count":
        reduced = reduced.updateMask(reduced.gt(0))
    return reduced.rename(names)


def _reducer(api: Any, output: Output) -> Any:
    if output.percentile is not None:
        return api.Reducer.percentile([output.percentile])
    named = {"std": "stdDev"}
    return getattr(api.Reducer, named.get(output.reducer, output.reducer))()


def _in_stored_units(spec: ArraySpec, program: Program, image: Image, reducer: str) -> Image:
    if program.decibel and reducer != "count":
        image = image.updateMask(image.gt(0)).log10().multiply(10.0)
    return _scaled(spec, image)


def _scaled(spec: ArraySpec, image: Image) -> Image:
    if spec.offset:
        image = image.subtract(spec.offset)
    return image if spec.scale == 1.0 else image.divide(spec.scale)
