"""The one table that knows the modalities: MMEarth's twelve, M3LEO's layers, and what a user declares. Everything else
looks arrays up here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from m3etl.errors import InputError
from m3etl.spec.biomes import biome_names
from m3etl.spec.catalog_dates import dated_arrays
from m3etl.spec.catalog_further import further_arrays
from m3etl.spec.catalog_insar import insar_arrays
from m3etl.spec.catalog_m3leo import m3leo_arrays
from m3etl.spec.modality import ArraySpec, ClassCode, Resampling, Shape, Temporal, Transform, Values
from m3etl.spec.spelling import did_you_mean

sentinel2_l2a_bands = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B11", "B12")
sentinel2_l1c_bands = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12")
sentinel1_bands = ("VV", "VH", "HH", "HV")
climate_windows = ("previous_month", "month", "year")


@dataclass(frozen=True, slots=True, kw_only=True)
class License:
    """Terms of a source. kind: permissive, share-alike, non-commercial or unknown; notice: text to reproduce."""

    id: str
    kind: str
    title: str
    notice: str = ""
    url: str = ""


licenses: Mapping[str, License] = {
    item.id: item
    for item in (
        License(
            id="copernicus-sentinel",
            kind="permissive",
            title="Copernicus Sentinel data terms",
            notice="Contains modified Copernicus Sentinel data.",
            url="https://sentinels.copernicus.eu/documents/247904/690755/Sentinel_Data_Legal_Notice",
        ),
        License(
            id="CC-BY-4.0",
            kind="permissive",
            title="Creative Commons Attribution 4.0",
            url="https://creativecommons.org/licenses/by/4.0/",
        ),
        License(
            id="CC-BY-SA-4.0",
            kind="share-alike",
            title="Creative Commons Attribution-ShareAlike 4.0",
            url="https://creativecommons.org/licenses/by-sa/4.0/",
        ),
        License(
            id="copernicus-dem",
            kind="permissive",
            title="Copernicus WorldDEM-30 terms",
            notice="Produced using Copernicus WorldDEM-30 © DLR e.V. 2010-2014 and © Airbus Defence and Space GmbH "
            "2014-2018 provided under COPERNICUS by the European Union and ESA; all rights reserved.",
            url="https://spacedata.copernicus.eu/collections/copernicus-digital-elevation-model",
        ),
        License(
            id="ec-reuse",
            kind="permissive",
            title="Reuse policy of the European Commission, with attribution",
            notice="GHS-BUILT-S R2023A, European Commission, Joint Research Centre (JRC).",
            url="https://human-settlement.emergency.copernicus.eu",
        ),
        License(id="nasa-open", kind="permissive", title="NASA open data policy"),
        License(
            id="copernicus-c3s",
            kind="permissive",
            title="Licence to use Copernicus products (C3S)",
            notice="Contains modified Copernicus Climate Change Service information. Neither the European "
            "Commission nor ECMWF is responsible for any use that may be made of it.",
        ),
        License(id="synthetic", kind="permissive", title="Made up by m3etl's embedded Earth Engine"),
        License(id="own", kind="permissive", title="Computed by m3etl from location and date"),
        License(id="unknown", kind="unknown", title="Unknown"),
    )
}


def _classes(*rows: tuple[int, str, str]) -> tuple[ClassCode, ...]:
    return tuple(ClassCode(code=code, name=name, color=color) for code, name, color in rows)


dynamic_world_classes = _classes(
    (0, "water", "#419bdf"),
    (1, "trees", "#397d49"),
    (2, "grass", "#88b053"),
    (3, "flooded_vegetation", "#7a87c6"),
    (4, "crops", "#e49635"),
    (5, "shrub_and_scrub", "#dfc35a"),
    (6, "built", "#c4281b"),
    (7, "bare", "#a59b8f"),
    (8, "snow_and_ice", "#b39fe1"),
)
worldcover_classes = _classes(
    (10, "tree_cover", "#006400"),
    (20, "shrubland", "#ffbb22"),
    (30, "grassland", "#ffff4c"),
    (40, "cropland", "#f096ff"),
    (50, "built_up", "#fa0000"),
    (60, "bare_sparse_vegetation", "#b4b4b4"),
    (70, "snow_and_ice", "#f0f0f0"),
    (80, "permanent_water", "#0064c8"),
    (90, "herbaceous_wetland", "#0096a0"),
    (95, "mangroves", "#00cf75"),
    (100, "moss_and_lichen", "#fae6a0"),
)


def _sentinel2(level: str, bands: tuple[str, ...], collection: str) -> ArraySpec:
    return ArraySpec(
        name=f"sentinel2_{level}",
        modality="sentinel2",
        title=f"Sentinel-2 reflectance, level {level.upper()}",
        shape=Shape.RASTER,
        values=Values.CONTINUOUS,
        bands=bands,
        dtype="uint16",
        fill=65535,
        scale=1e-4,
        units="1",
        valid_min=0.0,
        valid_max=6.5534,
        native_gsd_m=10.0,
        resampling=Resampling.BILINEAR,
        source=(collection,),
        recipe="sentinel2",
        temporal=Temporal.ANCHOR,
        transform=Transform.ROBUST,
        statistics="clear",
        license="copernicus-sentinel",
    )


def _sentinel1(orbit_pass: str) -> ArraySpec:
    return ArraySpec(
        name=f"sentinel1_{orbit_pass}",
        modality="sentinel1",
        title=f"Sentinel-1 backscatter (sigma0), {orbit_pass}ending pass",
        shape=Shape.RASTER,
        values=Values.CONTINUOUS,
        bands=sentinel1_bands,
        dtype="int16",
        fill=-32768,
        scale=0.01,
        units="dB",
        valid_min=-80.0,
        valid_max=60.0,
        native_gsd_m=10.0,
        resampling=Resampling.BILINEAR_LINEAR_POWER,
        source=("COPERNICUS/S1_GRD",),
        recipe="sentinel1",
        temporal=Temporal.NEAREST,
        max_gap_days=30.0,
        license="copernicus-sentinel",
    )


def _era5(name: str, title: str, bands: tuple[str, ...], units: str, transform: Transform, low: float) -> ArraySpec:
    return ArraySpec(
        name=name,
        modality=name,
        title=title,
        shape=Shape.VECTOR,
        values=Values.CONTINUOUS,
        bands=tuple(f"{band}_{window}" for window in climate_windows for band in bands),
        dtype="float32",
        fill=None,
        units=units,
        valid_min=low,
        source=("ECMWF/ERA5_LAND/MONTHLY_AGGR",),
        recipe="era5",
        temporal=Temporal.MONTHS,
        native_gsd_m=11132.0,
        transform=transform,
        license="copernicus-c3s",
    )


def _computed(
    name: str, title: str, bands: tuple[str, ...], values: Values, temporal: Temporal, dtype: str = "float32"
) -> ArraySpec:
    return ArraySpec(
        name=name,
        modality=name,
        title=title,
        shape=Shape.VECTOR,
        values=values,
        bands=bands,
        dtype=dtype,
        fill=None,
        units="1",
        valid_min=-1.0,
        valid_max=1.0,
        source=(),
        recipe=name,
        temporal=temporal,
        transform=Transform.NONE,
        license="own",
    )


arrays: Mapping[str, ArraySpec] = {
    spec.name: spec
    for spec in (
        _sentinel2("l2a", sentinel2_l2a_bands, "COPERNICUS/S2_SR_HARMONIZED"),
        _sentinel2("l1c", sentinel2_l1c_bands, "COPERNICUS/S2_HARMONIZED"),
        ArraySpec(
            name="sentinel2_cloud",
            modality="sentinel2",
            title="Cloud Score+ x 100 (cs, cs_cdf; 100 is clear) and scene classification (SCL codes)",
            shape=Shape.RASTER,
            values=Values.CONTINUOUS,
            bands=("cs", "cs_cdf", "SCL"),
            dtype="uint8",
            fill=255,
            units="1",
            valid_min=0.0,
            valid_max=100.0,
            native_gsd_m=10.0,
            resampling=Resampling.NEAREST,
            source=("GOOGLE/CLOUD_SCORE_PLUS/V1/S2_HARMONIZED", "COPERNICUS/S2_SR_HARMONIZED"),
            recipe="sentinel2_cloud",
            temporal=Temporal.ANCHOR,
            transform=Transform.NONE,
            license="CC-BY-4.0",
            target=False,
        ),
        _sentinel1("asc"),
        _sentinel1("desc"),
        ArraySpec(
            name="aster_elevation",
            modality="aster",
            title="ASTER GDEM elevation above the geoid",
            shape=Shape.RASTER,
            values=Values.CONTINUOUS,
            bands=("elevation",),
            dtype="int16",
            fill=-32768,
            units="m",
            valid_min=-500.0,
            valid_max=9000.0,
            native_gsd_m=30.0,
            resampling=Resampling.BILINEAR,
            source=("projects/sat-io/open-datasets/ASTER/GDEM",),
            recipe="elevation",
            temporal=Temporal.STATIC,
            license="nasa-open",
        ),
        ArraySpec(
            name="aster_slope",
            modality="aster",
            title="Slope of the ASTER GDEM, computed before resampling with neighbours beyond the chip",
            shape=Shape.RASTER,
            values=Values.CONTINUOUS,
            bands=("slope",),
            dtype="int16",
            fill=-32768,
            scale=0.01,
            units="degree",
            valid_min=0.0,
            valid_max=90.0,
            native_gsd_m=30.0,
            resampling=Resampling.BILINEAR,
            source=("projects/sat-io/open-datasets/ASTER/GDEM",),
            recipe="slope",
            temporal=Temporal.STATIC,
            license="nasa-open",
        ),
        ArraySpec(
            name="canopy_height",
            modality="canopy_height",
            title="ETH global canopy height 2020 and its standard deviation",
            shape=Shape.RASTER,
            values=Values.CONTINUOUS,
            bands=("height", "std"),
            dtype="uint8",
            fill=255,
            units="m",
            valid_min=0.0,
            valid_max=254.0,
            native_gsd_m=10.0,
            resampling=Resampling.BILINEAR,
            source=(
                "users/nlang/ETH_GlobalCanopyHeight_2020_10m_v1",
                "users/nlang/ETH_GlobalCanopyHeightSD_2020_10m_v1",
            ),
            recipe="canopy_height",
            temporal=Temporal.STATIC,
            license="CC-BY-4.0",
        ),
        ArraySpec(
            name="dynamic_world",
            modality="dynamic_world",
            title="Dynamic World: most frequent label of the anchor's calendar year",
            shape=Shape.RASTER,
            values=Values.CLASSES,
            bands=("label",),
            dtype="uint8",
            fill=255,
            units="1",
            valid_min=0.0,
            valid_max=8.0,
            native_gsd_m=10.0,
            resampling=Resampling.NEAREST,
            source=("GOOGLE/DYNAMICWORLD/V1",),
            recipe="dynamic_world",
            temporal=Temporal.YEAR,
            transform=Transform.NONE,
            classes=dynamic_world_classes,
            license="CC-BY-4.0",
            label_family="land_cover",
        ),
        ArraySpec(
            name="worldcover",
            modality="worldcover",
            title="ESA WorldCover 2020 (v100)",
            shape=Shape.RASTER,
            values=Values.CLASSES,
            bands=("Map",),
            dtype="uint8",
            fill=255,
            units="1",
            valid_min=10.0,
            valid_max=100.0,
            native_gsd_m=10.0,
            resampling=Resampling.NEAREST,
            source=("ESA/WorldCover/v100",),
            recipe="worldcover",
            temporal=Temporal.STATIC,
            transform=Transform.NONE,
            classes=worldcover_classes,
            license="CC-BY-4.0",
            label_family="land_cover",
        ),
        _era5(
            "era5_temperature",
            "ERA5-Land 2 m temperature: mean, minimum, maximum of three windows",
            ("temperature_2m", "temperature_2m_min", "temperature_2m_max"),
            "K",
            Transform.ZSCORE,
            150.0,
        ),
        _era5(
            "era5_precipitation",
            "ERA5-Land total precipitation of three windows",
            ("total_precipitation_sum",),
            "m",
            Transform.LOG_ZSCORE,
            0.0,
        ),
        ArraySpec(
            name="biome",
            modality="biome",
            title="RESOLVE biome at the chip's centre, in MMEarth's order",
            shape=Shape.VECTOR,
            values=Values.CLASSES,
            bands=("biome",),
            dtype="uint8",
            fill=255,
            units="1",
            valid_min=0.0,
            valid_max=13.0,
            source=("RESOLVE/ECOREGIONS/2017",),
            recipe="biome",
            temporal=Temporal.PLACE,
            transform=Transform.NONE,
            classes=tuple(ClassCode(code=code, name=name) for code, name in enumerate(biome_names)),
            license="CC-BY-4.0",
            label_family="biome",
        ),
        ArraySpec(
            name="ecoregion",
            modality="ecoregion",
            title="RESOLVE ecoregion (ECO_ID) at the chip's centre",
            shape=Shape.VECTOR,
            values=Values.CLASSES,
            bands=("ecoregion",),
            dtype="uint16",
            fill=65535,
            units="1",
            valid_min=0.0,
            valid_max=849.0,
            source=("RESOLVE/ECOREGIONS/2017",),
            recipe="ecoregion",
            temporal=Temporal.PLACE,
            transform=Transform.NONE,
            class_limit=850,
            license="CC-BY-4.0",
            label_family="biome",
        ),
        _computed(
            "geolocation",
            "Sine and cosine of the chip centre's latitude and longitude",
            ("sin_lat", "cos_lat", "sin_lon", "cos_lon"),
            Values.CYCLIC,
            Temporal.PLACE,
        ),
        _computed(
            "month",
            "Sine and cosine of 2 pi month / 12 of the anchor",
            ("sin_month", "cos_month"),
            Values.CYCLIC,
            Temporal.TIME,
        ),
    )
}

modality_names: tuple[str, ...] = tuple(dict.fromkeys(spec.modality for spec in arrays.values()))
_further: Mapping[str, ArraySpec] = {spec.name: spec for spec in m3leo_arrays()}
_beside: Mapping[str, ArraySpec] = {
    spec.name: spec for spec in further_arrays(worldcover_classes, dynamic_world_classes)
}
_dated: Mapping[str, ArraySpec] = {spec.name: spec for spec in dated_arrays(arrays)}
_imported: Mapping[str, ArraySpec] = {spec.name: spec for spec in insar_arrays()}
_declared: dict[str, ArraySpec] = {}

modality_sets: Mapping[str, tuple[str, ...]] = {
    "mmearth": modality_names,
    "m3leo": tuple(dict.fromkeys(spec.modality for spec in _further.values())),
}


def known_arrays() -> Mapping[str, ArraySpec]:
    """Every array by name: MMEarth's, the further ones, those that come from files, and those that a user's files
    declared.
    """
    return {**arrays, **_further, **_beside, **_dated, **_imported, **_declared}


def declare_arrays(specs: Iterable[ArraySpec]) -> None:
    """Make a user's arrays known to this process. InputError where a name stands for another declaration already."""
    known = known_arrays()
    clashing = sorted(spec.name for spec in specs if known.get(spec.name, spec) != spec)
    if clashing:
        raise InputError(
            f"these arrays are declared already, and otherwise: {', '.join(clashing)}",
            hint="Give them names of their own.",
        )
    _declared.update({spec.name: spec for spec in specs})


def shipped_arrays() -> Mapping[str, ArraySpec]:
    """Every array of the package by name, without those that a user's files declared."""
    return {name: spec for name, spec in known_arrays().items() if name not in _declared}


def select_arrays(
    modalities: Sequence[str] = (), catalogue: Mapping[str, ArraySpec] | None = None
) -> tuple[ArraySpec, ...]:
    """The arrays of the named modalities or sets of them, in catalogue order; without a name MMEarth's twelve.

    Raises InputError that lists every unknown name and what is known.
    """
    if not modalities and catalogue is None:
        return tuple(arrays.values())
    catalogue = known_arrays() if catalogue is None else catalogue
    modalities = [name for item in modalities for name in modality_sets.get(item, (item,))]
    known = dict.fromkeys(spec.modality for spec in catalogue.values())
    unknown = [name for name in modalities if name not in known]
    if unknown:
        raise InputError(
            f"unknown modality: {', '.join(unknown)}{did_you_mean(unknown, (*known, *modality_sets))}",
            hint=f"Known modalities: {', '.join(known)}. `m3etl modalities` describes them.",
        )
    return tuple(spec for spec in catalogue.values() if not modalities or spec.modality in modalities)


def find_array(name: str, catalogue: Mapping[str, ArraySpec] | None = None) -> ArraySpec:
    """The declaration of one array by its name; InputError lists the known ones."""
    catalogue = known_arrays() if catalogue is None else catalogue
    if name not in catalogue:
        raise InputError(
            f"unknown array: {name}{did_you_mean(name, catalogue)}", hint=f"Known arrays: {', '.join(catalogue)}."
        )
    return catalogue[name]


def catalogue_digest(specs: Iterable[ArraySpec]) -> str:
    """sha256 over the declarations used, independent of their order."""
    text = "\n".join(sorted(f"{spec.name} {spec.digest()}" for spec in specs))
    return hashlib.sha256(text.encode()).hexdigest()
