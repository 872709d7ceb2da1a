"""Files of a user as an array: which bands, which nodata, which units; and what is said where that is not clear."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import rasterio
from fakes.geotiffs import numbered, write_geotiff

from m3etl.compute.warp import Method
from m3etl.errors import InputError, NothingSelectedError
from m3etl.io.localfiles import find_local_files
from m3etl.spec.catalog import find_array

elevation, cover = find_array("aster_elevation"), find_array("worldcover")
canopy, optical = find_array("canopy_height"), replace(find_array("sentinel2_l2a"), bands=("B2", "B4"))


def test_files_patterns_and_directories(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("b.tif", "a.TIF", "deep/c.tiff", "notes.txt"):
        write_geotiff(tmp_path / name, numbered(1, 20, 20, "int16"), nodata=-32768, block=0)
    found = find_local_files(elevation, [str(tmp_path)])
    assert [raster.name.rsplit("/")[-1] for raster in found.rasters] == ["a.TIF", "b.tif", "c.tiff"]
    assert len(find_local_files(elevation, [str(tmp_path / "*.tif"), str(tmp_path / "b.tif")]).rasters) == 1
    with pytest.raises(NothingSelectedError, match=r"no raster matches .*\.vrt"):
        find_local_files(elevation, [str(tmp_path / "*.vrt")])
    with pytest.raises(InputError, match=r"there is no file .*d\.tif"):
        find_local_files(elevation, [str(tmp_path / "d.tif")])


def test_bands_by_name_never_by_position(tmp_path):
    values = numbered(3, 20, 20)
    named = str(write_geotiff(tmp_path / "n.tif", values, nodata=0, names=("B4", "B3", "B2")))
    assert find_local_files(optical, [named], values="stored").bands == (3, 1)
    bare = str(write_geotiff(tmp_path / "b.tif", values, nodata=0))
    with pytest.raises(InputError, match=r"needs the bands B2, B4; .*b\.tif has 1, 2, 3") as caught:
        find_local_files(optical, [bare], values="stored")
    assert "bands = [...]" in caught.value.hint
    assert find_local_files(optical, [bare], bands=["B2", "B3", "B4"], values="stored").bands == (1, 3)
    with pytest.raises(InputError, match="2 names are given for the bands of"):
        find_local_files(optical, [bare], bands=["B2", "B4"], values="stored")
    one = str(write_geotiff(tmp_path / "o.tif", values[:1], nodata=0))
    assert find_local_files(cover, [one]).bands == (1,), "one band needs no name"


def test_undeclared_nodata_is_asked_for(tmp_path):
    path = str(write_geotiff(tmp_path / "a.tif", numbered(1, 20, 20, "int16")))
    with pytest.raises(InputError, match="declares no nodata value") as caught:
        find_local_files(elevation, [path])
    assert 'nodata = "none"' in caught.value.hint
    assert find_local_files(elevation, [path], nodata="none").numbers.nodata == (None,)
    assert find_local_files(elevation, [path], nodata="-9999").numbers.nodata == (-9999.0,)
    with pytest.raises(InputError, match="no number"):
        find_local_files(elevation, [path], nodata="nothing")
    floats = str(write_geotiff(tmp_path / "f.tif", numbered(1, 20, 20, "float32")))
    assert np.isnan(find_local_files(elevation, [floats]).numbers.nodata[0]), "NaN marks it in floats"


def test_units_are_asked_for_where_two_could_be_meant(tmp_path):
    path = str(write_geotiff(tmp_path / "a.tif", numbered(2, 20, 20), nodata=0, names=("B2", "B4")))
    with pytest.raises(InputError, match=r"stored in steps of 0\.0001; .* holds uint16 without a scale") as caught:
        find_local_files(optical, [path])
    assert "stored" in caught.value.hint
    assert find_local_files(optical, [path], values="stored").numbers.scale == 1e-4
    assert find_local_files(optical, [path], values="physical").numbers.scale == 1.0
    with pytest.raises(InputError, match="neither"):
        find_local_files(optical, [path], values="raw")
    scaled = str(write_geotiff(tmp_path / "s.tif", numbered(2, 20, 20), nodata=0, names=("B2", "B4")))
    with rasterio.open(scaled, "r+") as file:
        file.scales = (0.001, 0.001)
    assert find_local_files(optical, [scaled]).numbers.scale == 0.001


def test_files_that_do_not_fit(tmp_path):
    first = str(write_geotiff(tmp_path / "a.tif", numbered(1, 20, 20, "int16"), nodata=-1))
    other = str(write_geotiff(tmp_path / "b.tif", numbered(1, 20, 20, "uint16"), nodata=-1 % 65536))
    with pytest.raises(InputError, match="do not belong together: data type"):
        find_local_files(elevation, [first, other])
    with pytest.raises(InputError, match="no picture"):
        find_local_files(find_array("biome"), [first])
    complex_file = str(write_geotiff(tmp_path / "c.tif", np.ones((1, 20, 20), np.complex64)))
    with pytest.raises(InputError, match="complex"):
        find_local_files(elevation, [complex_file])


def test_the_method_fits_the_kind(tmp_path):
    path = str(write_geotiff(tmp_path / "a.tif", numbered(1, 20, 20, "uint8"), nodata=255))
    assert find_local_files(cover, [path]).method is None
    assert find_local_files(cover, [path], method="mode").method is Method.MODE
    with pytest.raises(InputError, match="codes, which have no cubic"):
        find_local_files(cover, [path], method="cubic")
    with pytest.raises(InputError, match="unknown resampling: lanczos"):
        find_local_files(elevation, [path], method="lanczos")
