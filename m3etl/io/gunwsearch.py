"""The archive of the Alaska Satellite Facility, asked for S1-GUNW products through its own client, asf_search."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from types import ModuleType
from typing import Any

import shapely
import shapely.geometry

from m3etl.errors import InputError, MissingExtraError, RemoteError
from m3etl.io.gunw import parse_name
from m3etl.io.gunwsource import FoundProduct


class AsfArchive:
    """Searches need no login; reading what was found needs one of Earthdata, in ~/.netrc."""

    def __init__(self, client: ModuleType | Any | None = None) -> None:
        self._client = client or _load_client()

    def search(
        self, bounds_lonlat: tuple[float, float, float, float], first: datetime, last: datetime
    ) -> Sequence[FoundProduct]:
        """Products over west, south, east, north whose dates lie in [first, last]. RemoteError where it fails."""
        client = self._client
        try:
            answers = client.search(
                dataset=client.DATASET.ARIA_S1_GUNW,
                intersectsWith=shapely.box(*bounds_lonlat).wkt,
                start=first,
                end=last,
            )
        except client.ASFError as error:
            raise RemoteError(
                f"the search for S1-GUNW products failed: {error}",
                hint="Try again later, or name files: `m3etl tile --gunw FOLDER`.",
            ) from error
        found = [_product(answer) for answer in answers]
        return sorted((item for item in found if item is not None), key=lambda item: item.pair.name)


def _product(answer: Any) -> FoundProduct | None:
    """A product of an answer; None for browse pictures, metadata and whatever else the archive lists."""
    address = str(answer.properties.get("url", ""))
    if not address.endswith(".nc") or not answer.geometry:
        return None
    try:
        pair = parse_name(address)
    except InputError:
        return None
    footprint = shapely.make_valid(shapely.geometry.shape(answer.geometry))
    return FoundProduct(location=address, pair=pair, footprint=footprint)


def _load_client() -> ModuleType:
    try:
        import asf_search
    except ImportError as error:
        raise MissingExtraError(
            "searching for S1-GUNW products needs asf_search", hint="pip install 'm3etl[insar]'"
        ) from error
    client: ModuleType = asf_search
    return client
