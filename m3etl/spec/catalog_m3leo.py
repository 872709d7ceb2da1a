"""M3LEO's layers and what goes with them: seasonal and monthly Sentinel-1 and Sentinel-2, seasonal coherence, elevation
models, biomass, built-up surface, vegetation. Each by name only: `--modality NAME`, or the set `m3leo`.
"""

from __future__ import annotations

from m3etl.spec.modality import ArraySpec, Resampling, Shape, Temporal, Transform, Values
from m3etl.spec.program import Comparison, Filter, Mask, Output, Program, Window, monthly, months, seasonal, seasons

coherence_seasons = {"DJF": "winter", "MAM": "spring", "JJA": "summer", "SON": "fall"}  # the northern ones everywhere
coherence_days = (6, 12, 18, 24, 36, 48)
reflectance_bands = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B11", "B12")
most_orbits = 4
terrain_recipes = tuple(f"{kind}_{what}" for kind in ("tiled", "terrain") for what in ("elevation", "slope", "aspect"))
_gssic = "Earth_Big_Data/GLOBAL_SEASONAL_S1/V2019"
_cloudy_scl = (0, 1, 3, 8, 9, 10)  # no data, defective, shadow, cloud of two probabilities, cirrus


def m3leo_arrays() -> tuple[ArraySpec, ...]:
    """All rows, in the order in which they are stored."""
    return (
        *(_backscatter(way, of_seasons=True) for way in ("asc", "desc")),
        *(_backscatter_counts(way) for way in ("asc", "desc")),
        *(_backscatter(way, of_seasons=False) for way in ("asc", "desc")),
        _reflectance(of_seasons=True),
        _reflectance(of_seasons=False),
        *_coherence(),
        *_terrain("copernicus", "Copernicus GLO-30", "COPERNICUS/DEM/GLO30_2024_1", "copernicus-dem", tiled=True),
        *_terrain("srtm", "SRTM of 1 arc second", "USGS/SRTMGL1_003", "nasa-open", tiled=False),
        *_terrain("nasadem", "NASADEM", "NASA/NASADEM_HGT/001", "nasa-open", tiled=False),
        *_labels(),
    )


def _backscatter(way: str, *, of_seasons: bool) -> ArraySpec:
    reducers = ("mean", "median", "std") if of_seasons else ("mean",)
    outputs = (seasonal if of_seasons else monthly)(("VV", "VH"), reducers)
    period = "seasons" if of_seasons else "months"
    return ArraySpec(
        name=f"sentinel1_{way}_{period}",
        modality=f"sentinel1_{period}",
        title=f"Sentinel-1 gamma nought of the anchor year's {period}, {way}ending pass: "
        f"{', '.join(reducers)} in linear power, stored in dB",
        shape=Shape.RASTER,
        values=Values.CONTINUOUS,
        bands=tuple(output.name for output in outputs),
        periods=tuple(seasons if of_seasons else months),
        dtype="int16",
        fill=-32768,
        scale=0.01,
        units="dB",
        valid_min=-90.0,
        valid_max=40.0,
        native_gsd_m=10.0,
        resampling=Resampling.BILINEAR_LINEAR_POWER,
        source=("COPERNICUS/S1_GRD",),
        recipe="program",
        temporal=Temporal.SEASONS if of_seasons else Temporal.YEAR,
        license="copernicus-sentinel",
        program=Program(
            outputs=outputs,
            window=Window.SEASONS if of_seasons else Window.YEAR,
            filters=_pass_filters(way),
            decibel=True,
        ),
    )


def _backscatter_counts(way: str) -> ArraySpec:
    outputs = seasonal(("VV", "VH"), ("count",))
    return ArraySpec(
        name=f"sentinel1_{way}_counts",
        modality="sentinel1_seasons",
        title=f"How many Sentinel-1 images each season's statistics are made of, {way}ending pass",
        shape=Shape.RASTER,
        values=Values.CONTINUOUS,
        bands=tuple(output.name for output in outputs),
        periods=tuple(seasons),
        dtype="uint8",
        fill=255,
        units="1",
        valid_min=0.0,
        valid_max=254.0,
        native_gsd_m=10.0,
        resampling=Resampling.NEAREST,
        source=("COPERNICUS/S1_GRD",),
        recipe="program",
        temporal=Temporal.SEASONS,
        license="copernicus-sentinel",
        target=False,
        program=Program(outputs=outputs, window=Window.SEASONS, filters=_pass_filters(way)),
    )


def _pass_filters(way: str) -> tuple[Filter, ...]:
    return (
        Filter(property="instrumentMode", comparison=Comparison.EQUALS, value="IW"),
        Filter(
            property="orbitProperties_pass",
            comparison=Comparison.EQUALS,
            value="ASCENDING" if way == "asc" else "DESCENDING",
        ),
    )


def _reflectance(*, of_seasons: bool) -> ArraySpec:
    outputs = (seasonal if of_seasons else monthly)(reflectance_bands, ("median",))
    period = "seasons" if of_seasons else "months"
    return ArraySpec(
        name=f"sentinel2_{period}",
        modality=f"sentinel2_{period}",
        title=f"Sentinel-2 L2A reflectance of the anchor year's {period}: median of clear pixels",
        shape=Shape.RASTER,
        values=Values.CONTINUOUS,
        bands=tuple(output.name for output in outputs),
        periods=tuple(seasons if of_seasons else months),
        dtype="uint16",
        fill=65535,
        scale=1e-4,
        units="1",
        valid_min=0.0,
        valid_max=6.5534,
        native_gsd_m=10.0,
        resampling=Resampling.BILINEAR,
        source=("COPERNICUS/S2_SR_HARMONIZED",),
        recipe="program",
        temporal=Temporal.SEASONS if of_seasons else Temporal.YEAR,
        license="copernicus-sentinel",
        program=Program(
            outputs=outputs,
            window=Window.SEASONS if of_seasons else Window.YEAR,
            filters=(Filter(property="CLOUDY_PIXEL_PERCENTAGE", comparison=Comparison.AT_MOST, value=80.0),),
            masks=(Mask(band="SCL", values=_cloudy_scl),),
            source_scale=1e-4,
        ),
    )


def _coherence() -> tuple[ArraySpec, ...]:
    days = tuple(f"COH{count:02d}" for count in coherence_days)
    rows = []
    for polarisation in ("vv", "hh"):
        suffix = "" if polarisation == "vv" else "_hh"
        ground = "land" if polarisation == "vv" else "ice sheets"
        rows.append(
            _gssic_array(
                f"coherence{suffix}",
                f"Median {polarisation.upper()} coherence by season and days between images ({ground})",
                "COHERENCE",
                tuple(f"{polarisation}_{name}" for name in days),
                dtype="uint8", fill=255, scale=0.01, limits=(0.0, 1.0), no_data=(0.0,),
            )
        )  # fmt: skip
        rows.append(
            _gssic_array(
                f"coherence_decay{suffix}",
                f"Decay of {polarisation.upper()} coherence: rho and rmse without unit, tau in days ({ground})",
                "DECAY_MODEL_PARAMETERS",
                tuple(f"{polarisation}_{name}" for name in ("rho", "tau", "rmse")),
                dtype="uint16", fill=65535, scale=0.001, limits=(0.0, 65.0), no_data=(0.0,),
            )
        )  # fmt: skip
    rows.append(
        _gssic_array(
            "coherence_backscatter",
            "Mean radiometrically terrain-corrected backscatter by season and polarisation",
            "BACKSCATTER",
            ("vv_AMP", "vh_AMP", "hh_AMP", "hv_AMP"),
            dtype="int16", fill=-32768, scale=0.01, limits=(-83.0, 40.0), no_data=(0.0,), units="dB",
        )
    )  # fmt: skip
    rows.append(
        ArraySpec(
            name="coherence_geometry",
            modality="coherence",
            title="Local incidence angle and layover/shadow code of up to four relative orbits, kept apart",
            shape=Shape.RASTER,
            values=Values.CONTINUOUS,
            bands=tuple(f"{name}_{slot}" for slot in range(1, most_orbits + 1) for name in ("inc", "lsmap", "orbit")),
            dtype="uint8",
            fill=255,
            units="degree",
            valid_min=0.0,
            valid_max=180.0,
            native_gsd_m=92.7,
            resampling=Resampling.NEAREST,
            source=(f"{_gssic}/INCIDENCE_LAYOVER_SHADOW",),
            recipe="orbits",
            temporal=Temporal.STATIC,
            license="CC-BY-4.0",
            target=False,
        )
    )
    return tuple(rows)


def _gssic_array(
    name: str,
    title: str,
    part: str,
    bands: tuple[str, ...],
    *,
    dtype: str,
    fill: int,
    scale: float,
    limits: tuple[float, float],
    no_data: tuple[float, ...],
    units: str = "1",
) -> ArraySpec:
    is_power = units == "dB"
    outputs = tuple(
        Output(name=f"{season}_{band}", band=f"{source}_{band}")
        for season, source in coherence_seasons.items()
        for band in bands
    )
    return ArraySpec(
        name=name,
        modality="coherence",
        title=f"{title}, December 2019 to November 2020",
        shape=Shape.RASTER,
        values=Values.CONTINUOUS,
        bands=tuple(output.name for output in outputs),
        periods=tuple(coherence_seasons),
        dtype=dtype,
        fill=fill,
        scale=scale,
        units=units,
        valid_min=limits[0],
        valid_max=limits[1],
        native_gsd_m=92.7,
        resampling=Resampling.BILINEAR_LINEAR_POWER if is_power else Resampling.BILINEAR,
        source=(f"{_gssic}/{part}",),
        recipe="program",
        temporal=Temporal.STATIC,
        license="CC-BY-4.0",
        program=Program(
            outputs=outputs,
            no_data=no_data,
            decibel=is_power,
        ),
    )


def _terrain(name: str, title: str, source: str, license_id: str, *, tiled: bool) -> tuple[ArraySpec, ...]:
    def row(what: str, bands: tuple[str, ...], **declared: object) -> ArraySpec:
        return ArraySpec(
            name=f"{name}_{what}",
            modality=name,
            title=f"{title}: {what}",
            shape=Shape.RASTER,
            bands=bands,
            native_gsd_m=30.0,
            resampling=Resampling.BILINEAR,
            source=(source,),
            recipe=f"tiled_{what}" if tiled else f"terrain_{what}",
            temporal=Temporal.STATIC,
            license=license_id,
            label_family="terrain",
            **declared,  # type: ignore[arg-type]
        )

    return (
        row("elevation", ("elevation",), values=Values.CONTINUOUS, dtype="float32", fill=None, units="m",
            valid_min=-500.0, valid_max=9000.0),
        row("slope", ("slope",), values=Values.CONTINUOUS, dtype="float32", fill=None, units="degree",
            valid_min=0.0, valid_max=90.0),
        row("aspect", ("sin_aspect", "cos_aspect"), values=Values.CYCLIC, dtype="float32", fill=None, units="1",
            valid_min=-1.0, valid_max=1.0, transform=Transform.NONE),
    )  # fmt: skip


def _labels() -> tuple[ArraySpec, ...]:
    return (
        _map(
            "biomass", "ESA CCI above-ground biomass 2020 and its standard deviation",
            "ESA/CCI/Above_Ground_Biomass/V6_0/2020", ("agb", "agb_sd"), "Mg/ha", 100.0, 10_000.0, "CC-BY-4.0",
            dtype="uint16", fill=65535,
        ),
        _map(
            "built_surface", "GHS-BUILT-S 2020: built-up square metres of each hectare, all and non-residential",
            "JRC/GHSL/P2023A/GHS_BUILT_S/2020", ("built_surface", "built_surface_nres"), "m2", 100.0, 10_000.0,
            "ec-reuse", dtype="uint16", fill=65535,
        ),
        _map(
            "modis_vegetation", "MODIS vegetation continuous fields of the year from March 2020 (collection 6.1)",
            "MODIS/061/MOD44B/2020_03_05",
            ("Percent_Tree_Cover", "Percent_NonTree_Vegetation", "Percent_NonVegetated"), "percent", 231.66, 100.0,
            "nasa-open", dtype="uint8", fill=255,
        ),
    )  # fmt: skip


def _map(
    name: str,
    title: str,
    asset: str,
    bands: tuple[str, ...],
    units: str,
    gsd_m: float,
    most: float,
    license_id: str,
    *,
    dtype: str,
    fill: int,
) -> ArraySpec:
    """A single image in its own units; what lies above `most` is a code (water, no data) and is not used."""
    return ArraySpec(
        name=name,
        modality=name,
        title=title,
        shape=Shape.RASTER,
        values=Values.CONTINUOUS,
        bands=bands,
        dtype=dtype,
        fill=fill,
        units=units,
        valid_min=0.0,
        valid_max=most,
        native_gsd_m=gsd_m,
        resampling=Resampling.BILINEAR,
        source=(asset,),
        recipe="program",
        temporal=Temporal.STATIC,
        license=license_id,
        label_family=name,
        program=Program(
            outputs=tuple(Output(name=band, band=band) for band in bands),
            is_collection=False,
            masks=tuple(Mask(band=band, at_most=most) for band in bands),
        ),
    )
