"""Places on the planet and how to read a small window of an asset there, for the tests of the planet."""

import numpy as np
from shapely.geometry import box

from m3etl.emulator.model import CollectionQuery
from m3etl.emulator.planet import utm

DAY_MS = 86_400_000
JANUARY = 1_577_836_800_000
JULY = 1_593_561_600_000


def window(image, band, lon, lat, size=64, step=1):
    """(values as float with NaN where not valid) of a square window of native pixels around a place."""
    info = next(item for item in image.info.bands if item.id == band)
    crs = info.projection.crs
    zone = utm.zone_of(crs)
    x, y = (lon, lat) if zone is None else (float(v[0]) for v in utm.to_utm(*zone, np.array([lon]), np.array([lat])))
    a, _, c, _, e, f = info.projection.transform
    column, row = np.meshgrid(
        int((x - c) / a) - size * step // 2 + step * np.arange(size),
        int((y - f) / e) - size * step // 2 + step * np.arange(size),
    )
    values, valid = image.sample([band], column, row)[band]
    return np.where(valid, values.astype(np.float64), np.nan)


def found(source, name, lon, lat, start_ms=JULY, days=40, **properties):
    """The images of a collection at a place and time that have all of some property values."""
    region = box(lon - 0.01, lat - 0.01, lon + 0.01, lat + 0.01)
    query = CollectionQuery(region=region, start_ms=start_ms, end_ms=start_ms + days * DAY_MS)
    return [
        image
        for image in source.collection(name).find(query)
        if all(image.info.properties[key] == value for key, value in properties.items())
    ]


def clearest(source, name, lon, lat, start_ms=JULY, days=60):
    """The Sentinel-2 image with the clearest sky over a place."""
    images = found(source, name, lon, lat, start_ms, days)

    def clear(image):
        score = source.image(f"GOOGLE/CLOUD_SCORE_PLUS/V1/S2_HARMONIZED/{image.info.properties['system:index']}")
        return np.nan_to_num(window(score, "cs", lon, lat, 16, 8)).mean()

    return max(images, key=clear)
