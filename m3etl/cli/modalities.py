"""`m3etl modalities`: the catalogue, or one modality with its arrays in full."""

from __future__ import annotations

from typing import Any

import click

from m3etl.cli.options import Settings


@click.command("modalities")
@click.argument("name", required=False)
@click.pass_obj
def command(settings: Settings, name: str | None) -> None:
    """List the modalities, or describe one of them.

    NAME is a modality or one of its arrays; bands, units, classes, source and licence are shown.
    """
    from m3etl.cli import output
    from m3etl.spec.catalog import arrays, select_arrays

    if name is None:
        rows = [_row(spec) for spec in select_arrays()]
        output.write_document(rows) if settings.as_json else output.write_rows(rows)
        return
    specs = (arrays[name],) if name in arrays else select_arrays([name])
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
        "bands": len(spec.bands),
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
        "bands": list(spec.bands),
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
