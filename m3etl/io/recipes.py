"""How each array of a chip is computed by Earth Engine: one recipe per `recipe` of the catalogue, from planned asset
ids to bands in stored units, and the request that brings all of them on one grid.

Order inside a recipe: resampling before anything that loses the projection, unit conversion, reduction or mosaic,
then `_stored`: round, clamp (classes: mask), unmask to the fill (outside footprints too), cast.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import ee
import numpy as np

from m3etl.io.programs import hook_image, is_hook, orbit_image, program_image, terrain_image
from m3etl.spec.catalog_dates import cloud_dates, optical_dates, radar_dates
from m3etl.spec.catalog_further import angle_recipe
from m3etl.spec.catalog_m3leo import terrain_recipes
from m3etl.spec.chipgrid import ChipGrid, Window, pixel_m
from m3etl.spec.jobs import field_name, split_mark
from m3etl.spec.modality import ArraySpec, Values, names_by_period

Image = Any  # an ee.Image; the client's classes gain their methods only when it is initialised

check_fields = ("check__lon", "check__lat", "check__tag")
check_scale = 10_000_000  # check coordinates are degrees x 1e7, about a centimetre
_casts = {
    "uint8": "toUint8",
    "int8": "toInt8",
    "uint16": "toUint16",
    "int16": "toInt16",
    "uint32": "toUint32",
    "int32": "toInt32",
    "float32": "toFloat",
}
_cloud_score = "GOOGLE/CLOUD_SCORE_PLUS/V1/S2_HARMONIZED/"


def pixel_request(
    chip: ChipGrid, window: Window, arrays: Sequence[tuple[ArraySpec, Sequence[str]]], *, check: bool, tag: str
) -> dict[str, Any]:
    """The computePixels request for these arrays, each with the asset ids it is made of: NPY, explicit grid, stored
    dtypes.

    Coarse arrays ride along: pixel (i, j) of their own grid lies at pixel (i, j) of the chip.
    """
    images = [array_image(chip, spec, scene_ids) for spec, scene_ids in arrays]
    if check:
        images.append(check_image(chip.chip_id))
    combined = images[0]
    for image in images[1:]:
        combined = combined.addBands(image)
    return {
        "expression": combined,
        "fileFormat": "NPY",
        "grid": {
            "dimensions": {"width": window.width, "height": window.bottom - window.top},
            "affineTransform": {
                "scaleX": pixel_m,
                "shearX": 0,
                "translateX": chip.xmin,
                "shearY": 0,
                "scaleY": -pixel_m,
                "translateY": chip.ymax - window.top * pixel_m,
            },
            "crsCode": f"EPSG:{chip.epsg}",
        },
        "workloadTag": tag,
    }


def encode_request(request: Mapping[str, Any]) -> str:
    """The JSON body that the client's own `computePixels` sends for a request."""
    return json.dumps({**request, "expression": ee.serializer.encode(request["expression"], for_cloud_api=True)})


def array_image(chip: ChipGrid, spec: ArraySpec, scene_ids: Sequence[str]) -> Image:
    """One array as an image on the chip's grid: bands named as in the response, in stored dtype, fill where nothing
    was observed.
    """
    image = stored_image(spec, scene_ids)
    side = chip.pixels(spec)
    if side == chip.side_px:
        return image
    pixel = chip.side_m / side
    crs = f"EPSG:{chip.epsg}"
    coarse = [pixel, 0, chip.xmin, 0, -pixel, chip.ymax]
    fine = [pixel_m, 0, chip.xmin, 0, -pixel_m, chip.ymax]
    return image.reproject(crs, coarse).changeProj(ee.Projection(crs, coarse), ee.Projection(crs, fine))


def stored_image(spec: ArraySpec, scene_ids: Sequence[str]) -> Image:
    """One array wherever it is asked for, on no grid yet: what every lane exports."""
    image = hook_image(ee, spec, scene_ids) if is_hook(spec) else recipes[spec.recipe](spec, scene_ids)
    image = _stored(spec, image.select(list(spec.bands)))
    return image.rename([field_name(spec.name, band) for band in spec.bands])


def chip_tag(chip_id: str) -> int:
    """A number that tells chips apart in the check band, [0, 2**31)."""
    return zlib.crc32(chip_id.encode()) & 0x7FFFFFFF


def check_image(chip_id: str) -> Image:
    """Three int32 bands: longitude and latitude of the pixel centre in 1e-7 degrees, and the chip's tag."""
    position = ee.Image.pixelLonLat().multiply(check_scale).round().toInt32().rename(list(check_fields[:2]))
    return position.addBands(ee.Image.constant(chip_tag(chip_id)).toInt32().rename([check_fields[2]]))


def _stored(spec: ArraySpec, image: Image) -> Image:
    low, high = _limits(spec)
    if np.dtype(spec.dtype).kind in "iu":
        image = image.round()
    if spec.values is Values.CLASSES:
        image = image.updateMask(image.gte(low).And(image.lte(high)))
    else:
        image = image.clamp(low, high)
    fill = spec.fill if spec.fill is not None else math.nan
    return getattr(image.unmask(fill, False), _casts[spec.dtype])()


def _limits(spec: ArraySpec) -> tuple[float, float]:
    low, high = spec.stored_min, spec.stored_max
    if np.dtype(spec.dtype).kind in "iu":
        info = np.iinfo(spec.dtype)
        return max(math.ceil(low - 1e-6), int(info.min)), min(math.floor(high + 1e-6), int(info.max))
    return low, high


def _with_all_bands(image: Image, bands: Sequence[str]) -> Image:
    """`image` with exactly these bands by name; one that the scene lacks is there and fully masked, so that none ever
    shifts.
    """
    absent = ee.Image.constant([0] * len(bands)).rename(list(bands)).selfMask()
    return absent.addBands(image, None, True).select(list(bands))


def sentinel2(spec: ArraySpec, scene_ids: Sequence[str]) -> Image:
    """Reflectance x 10000 of the one scene, bilinear. scene_ids: the scene."""
    return _with_all_bands(ee.Image(scene_ids[0]).resample("bilinear"), spec.bands)


def sentinel2_cloud(spec: ArraySpec, scene_ids: Sequence[str]) -> Image:
    """Cloud Score+ x 100 and SCL of the anchor, nearest; code 0 of SCL (no data) is masked. scene_ids: those of the
    two that exist.
    """
    return _cloud(spec, scene_ids, lambda image: image.select(["SCL"]))


def _cloud(spec: ArraySpec, scene_ids: Sequence[str], classes_of: Callable[[Image], Image]) -> Image:
    bands = ee.Image.constant([0] * len(spec.bands)).rename(list(spec.bands)).selfMask()
    for scene_id in scene_ids:
        if scene_id.startswith(_cloud_score):
            bands = bands.addBands(ee.Image(scene_id).select(["cs", "cs_cdf"]).multiply(100), None, True)
        else:
            scl = classes_of(ee.Image(scene_id))
            bands = bands.addBands(scl.updateMask(scl.neq(0)), None, True)
    return bands


def sentinel1(spec: ArraySpec, scene_ids: Sequence[str]) -> Image:
    """Backscatter in 0.01 dB of the slices of one pass: taken to linear power, resampled and mosaicked there, then to
    dB again.

    scene_ids in order of time. Masked and non-positive power stays masked.
    """
    slices = []
    for scene_id in scene_ids:
        power = ee.Image(scene_id).multiply(math.log(10) / 10).exp().resample("bilinear")
        slices.append(_with_all_bands(power, spec.bands))
    power = slices[0] if len(slices) == 1 else ee.ImageCollection(slices).mosaic()
    power = power.updateMask(power.gt(0))
    return power.log10().multiply(10 / spec.scale)


def sentinel1_angle(spec: ArraySpec, scene_ids: Sequence[str]) -> Image:
    """Incidence angle in 0.01 degrees of the slices of one pass, bilinear, masked where they have no backscatter."""
    slices = []
    for scene_id in scene_ids:
        image = ee.Image(scene_id).resample("bilinear")
        slices.append(_with_all_bands(image, spec.bands).updateMask(image.select([0]).mask()))
    angle = slices[0] if len(slices) == 1 else ee.ImageCollection(slices).mosaic()
    return angle.divide(spec.scale)


def elevation(spec: ArraySpec, scene_ids: Sequence[str]) -> Image:
    """Elevation, bilinear."""
    return ee.Image(scene_ids[0]).select(["b1"], list(spec.bands)).resample("bilinear")


def slope(spec: ArraySpec, scene_ids: Sequence[str]) -> Image:
    """Slope in 0.01 degree, computed on the elevation model's own grid with neighbours beyond the chip, then
    bilinear.
    """
    model = ee.Image(scene_ids[0]).select(["b1"])
    native = ee.Terrain.slope(model).reproject(model.projection())
    return native.select(["slope"]).resample("bilinear").divide(spec.scale)


def canopy_height(spec: ArraySpec, scene_ids: Sequence[str]) -> Image:
    """Height and standard deviation, bilinear; the code 255 (no data) is masked. scene_ids: height, deviation."""
    combined = None
    for scene_id, band in zip(scene_ids, spec.bands, strict=True):
        image = ee.Image(scene_id).select(["b1"], [band])
        image = image.updateMask(image.neq(255)).resample("bilinear")
        combined = image if combined is None else combined.addBands(image)
    return combined


def dynamic_world(spec: ArraySpec, scene_ids: Sequence[str]) -> Image:
    """Most frequent label over exactly these images, nearest. Each is named: an id computed on the server may not load
    there.
    """
    images = ee.ImageCollection([ee.Image(scene_id) for scene_id in scene_ids])
    return images.select(list(spec.bands)).mode().rename(list(spec.bands))


def worldcover(spec: ArraySpec, scene_ids: Sequence[str]) -> Image:
    """The map, nearest; several tiles are mosaicked."""
    images = [ee.Image(scene_id).select(list(spec.bands)) for scene_id in scene_ids]
    return images[0] if len(images) == 1 else ee.ImageCollection(images).mosaic()


def classified_cloud(spec: ArraySpec, scene_ids: Sequence[str]) -> Image:
    """As `sentinel2_cloud`, of level 2A scenes that may have no classification."""
    return _cloud(spec, scene_ids, lambda image: _with_all_bands(image, ["SCL"]))


Recipe = Callable[[ArraySpec, Sequence[str]], Image]


def of_each_period(recipe: Recipe) -> Recipe:
    """A recipe of one date for all periods of an array; a period without scenes is there and masked.

    scene_ids: `ArrayScenes.request_ids`, which say of which period each is.
    """

    def image(spec: ArraySpec, scene_ids: Sequence[str]) -> Image:
        marked = [split_mark(request_id) for request_id in scene_ids]
        one = replace(spec, bands=spec.band_names, periods=())
        parts = []
        for period in spec.periods:
            own = [scene_id for of, scene_id in marked if of == period]
            absent = ee.Image.constant([0] * len(one.bands)).rename(list(one.bands)).selfMask()
            found = recipe(one, own) if own else absent
            parts.append(found.select(list(one.bands), list(names_by_period([period], one.bands))))
        combined = parts[0]
        for part in parts[1:]:
            combined = combined.addBands(part)
        return combined

    return image


list_recipes = frozenset({"dynamic_world", "program", "orbits"})  # take any number of images in one list

recipes: Mapping[str, Recipe] = {
    "sentinel2": sentinel2,
    "sentinel2_cloud": sentinel2_cloud,
    "sentinel1": sentinel1,
    angle_recipe: sentinel1_angle,
    "elevation": elevation,
    "slope": slope,
    "canopy_height": canopy_height,
    "dynamic_world": dynamic_world,
    "worldcover": worldcover,
    "program": lambda spec, scene_ids: program_image(ee, spec, scene_ids),
    optical_dates: of_each_period(sentinel2),
    cloud_dates: of_each_period(classified_cloud),
    radar_dates: of_each_period(sentinel1),
    "orbits": lambda spec, scene_ids: orbit_image(ee, spec, scene_ids),
    **dict.fromkeys(terrain_recipes, lambda spec, scene_ids: terrain_image(ee, spec, scene_ids)),
}
