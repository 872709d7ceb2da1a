"""`m3etl modalities`: the catalogue, one modality with its arrays in full, or a user's own file tried out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from m3etl.cli.options import Settings, earthengine_options


@click.command("modalities")
@click.argument("name", required=False)
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--at", metavar="LON,LAT", default="8.52,47.30", show_default=True, help="Pilot place of `check`.")
@click.option("--year", default=2020, show_default=True, help="Year of the pilot chip of `check`.")
@earthengine_options
@click.pass_obj
def command(
    settings: Settings,
    name: str | None,
    file: Path | None,
    at: str,
    year: int,
    ee_url: str | None,
    ee_project: str | None,
    archive: str | None,
) -> int:
    """List the modalities, describe one of them, or check a file of your own.

    NAME is a modality or one of its arrays; bands, units, classes, source and licence are shown. Of a set, mmearth
    (what `export` takes without a name) or m3leo, the arrays are listed. `m3etl modalities check FILE` runs the arrays
    that a TOML file declares on a pilot chip and says what they would store.
    """
    if name == "check":
        return _check(settings, file, at, year, (ee_url, ee_project, archive))
    if file is not None:
        raise click.UsageError(f"unexpected {str(file)!r}; only `check` takes a file")
    _describe(settings, name)
    return 0


def _check(settings: Settings, file: Path | None, at: str, year: int, source: tuple[str | None, ...]) -> int:
    from m3etl.cli.connection import source_of
    from m3etl.cli.output import write_summaries
    from m3etl.io.declared import read_declarations
    from m3etl.io.earthengine import open_session
    from m3etl.stages.declaring import Pilot, check_assets, run_declaration_check

    if file is None:
        raise click.UsageError("`check` needs the file to be checked")
    text, specs = read_declarations(file)
    lon, lat = _place(at)
    pilot = Pilot(lon=lon, lat=lat, year=year, chip_px=128)
    config = source_of(*source)
    archive = Path(config.archive) if config.archive else None
    with open_session(url=config.url, project=config.project, archive=archive, state_dir=None) as session:
        check_assets(session, specs, text=text, file=file.name, pilot=pilot)
        summary = run_declaration_check(session, specs, pilot=pilot)
    write_summaries(settings, [summary])
    return 3 if summary.rejected else 0


def _place(at: str) -> tuple[float, float]:
    try:
        lon, lat = (float(part) for part in at.split(","))
    except ValueError:
        raise click.UsageError(f"--at is LON,LAT in degrees, found {at!r}") from None
    if not (-180 <= lon <= 180 and -90 <= lat <= 90):
        raise click.UsageError(f"--at is LON,LAT in degrees, found {at!r}")
    return lon, lat


def _describe(settings: Settings, name: str | None) -> None:
    from m3etl.cli import output
    from m3etl.spec.catalog import known_arrays, modality_sets, select_arrays

    known = known_arrays()
    if name is None or name in modality_sets:
        rows = [_row(spec) for spec in (known.values() if name is None else select_arrays([name]))]
        output.write_document(rows) if settings.as_json else output.write_rows(rows)
        return
    specs = (known[name],) if name in known else select_arrays([name])
    documents = [_document(spec) for spec in specs]
    if settings.as_json:
        output.write_document(documents)
        return
    for number, document in enumerate(documents):
        if number:
            click.echo("")
        output.write_pairs({key: value for key, value in document.items() if value not in ("", [], None)})


def _row(spec: Any) -> dict[str, Any]:
    return {
        "modality": spec.modality,
        "array": spec.name,
        "bands": len(spec.band_names),
        "periods": len(spec.periods) or None,
        "metres": spec.native_gsd_m or None,
        "units": spec.units,
        "stored": spec.dtype,
        "values": str(spec.values),
        "title": spec.title,
    }


def _document(spec: Any) -> dict[str, Any]:
    from m3etl.spec.catalog import licenses

    terms = licenses.get(spec.license)
    return {
        "array": spec.name,
        "modality": spec.modality,
        "title": spec.title,
        "shape": str(spec.shape),
        "values": str(spec.values),
        "bands": list(spec.band_names),
        "periods": list(spec.periods),
        "units": spec.units,
        "stored as": spec.dtype,
        "scale": spec.scale,
        "offset": spec.offset,
        "fill": "NaN" if spec.fill is None else spec.fill,
        "valid range": [spec.valid_min, spec.valid_max],
        "native metres": spec.native_gsd_m or None,
        "resampling": str(spec.resampling),
        "time": str(spec.temporal),
        "classes": [f"{item.code} {item.name}" for item in spec.classes],
        "source": list(spec.source),
        "license": terms.title if terms else spec.license,
    }
