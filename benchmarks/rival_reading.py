"""Rivals read the same chips, each as its documentation says: `python rival_reading.py NAME FOLDER PASSES`.

FOLDER has one .npy file for each array of the store, (chips, ...) of the stored type, and under mmearth/ the arrays as
MMEarth stores them. Prints chips a second of each pass over all chips as JSON; two workers that live on, batches of 64,
warm, after a pass that does not count.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

batch_size = 64
workers = 2
Arrays = dict[str, np.ndarray]
Pass = Callable[[], Iterable[object]]


def main() -> None:
    """Prepare the rival's format, read once without counting, then time the passes."""
    warnings.simplefilter("ignore")
    name, folder, passes = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    source = folder / "mmearth" if name == "mmearth" else folder
    arrays = {path.stem: np.load(path, mmap_mode="r") for path in sorted(source.glob("*.npy"))}
    count = len(next(iter(arrays.values())))
    home = folder / f"as-{name}"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    read = rivals[name](arrays, home, count)
    rates = []
    for number in range(passes + 1):
        started = time.perf_counter()
        for _ in read():
            pass
        if number:
            rates.append(count / (time.perf_counter() - started))
    shutil.rmtree(home, ignore_errors=True)
    print(json.dumps(rates))


def sample(arrays: Arrays, row: int) -> Arrays:
    """One chip, in memory of its own."""
    return {name: np.array(values[row]) for name, values in arrays.items()}


def of_mmearth(arrays: Arrays, home: Path, count: int) -> Pass:
    """HDF5 with gzip 4 and one tile a chunk, read tile by tile and normalised in float64, in DataLoader workers."""
    import h5py
    import torch
    from torch.utils.data import DataLoader, Dataset

    with h5py.File(home / "tiles.h5", "w") as file:
        for name, values in arrays.items():
            shape = values.shape
            file.create_dataset(name, data=values, chunks=(1, *shape[1:]), compression="gzip", compression_opts=4)
    labels = {"dynamic_world": range(10), "esa_worldcover": (10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 100)}
    labels |= {"biome": range(14), "ecoregion": ()}
    stats = {}
    for name, values in arrays.items():
        some = np.array(values[:32], dtype=np.float64)
        some[~np.isfinite(some)] = np.nan
        axes = (0, *range(2, some.ndim))
        stats[name] = (np.nan_to_num(np.nanmean(some, axis=axes)), np.nan_to_num(np.nanstd(some, axis=axes)) + 1e-6)

    class Tiles(Dataset):
        """`__getitem__` as in the published training code: a list of bands, float64, a loop over labels."""

        file = None

        def __len__(self) -> int:
            return count

        def __getitem__(self, index: int) -> dict[str, np.ndarray]:
            if self.file is None:
                self.file = h5py.File(home / "tiles.h5", "r")
            found = {}
            for name, (mean, std) in stats.items():
                bands = list(range(self.file[name].shape[1]))
                data = np.array(self.file[name][index, bands, ...])
                if name in labels:
                    for new, old in enumerate(labels[name]):
                        data = np.where(data == old, new, data)
                    found[name] = data.astype(np.int64)
                    continue
                if data.ndim > 1:
                    mean, std = mean[:, None, None], std[:, None, None]
                data = (data - mean) / std
                found[name] = np.where(np.isfinite(data), data, np.nan).astype(np.float32)
            return found

    loader = DataLoader(Tiles(), batch_size=batch_size, shuffle=True, num_workers=workers, persistent_workers=True)
    return lambda: ({name: torch.as_tensor(values) for name, values in batch.items()} for batch in loader)


def of_h5py_blosc(arrays: Arrays, home: Path, count: int) -> Pass:
    """HDF5 with blosc-lz4-bitshuffle and one chip a chunk, read chip by chip in DataLoader workers."""
    import h5py
    import hdf5plugin
    from torch.utils.data import DataLoader, Dataset

    with h5py.File(home / "chips.h5", "w") as file:
        for name, values in arrays.items():
            codec = hdf5plugin.Blosc(cname="lz4", clevel=5, shuffle=hdf5plugin.Blosc.BITSHUFFLE)
            file.create_dataset(name, data=values, chunks=(1, *values.shape[1:]), **codec)

    class Chips(Dataset):
        file = None

        def __len__(self) -> int:
            return count

        def __getitem__(self, index: int) -> Arrays:
            if self.file is None:
                self.file = h5py.File(home / "chips.h5", "r")
            return {name: self.file[name][index] for name in arrays}

    loader = DataLoader(Chips(), batch_size=batch_size, shuffle=True, num_workers=workers, persistent_workers=True)
    return lambda: loader


def of_tensorstore(arrays: Arrays, home: Path, count: int) -> Pass:
    """Our own store: random batches, all arrays at once, as many threads as ours has."""
    import tensorstore

    context = tensorstore.Context(
        {"data_copy_concurrency": {"limit": workers}, "cache_pool": {"total_bytes_limit": 100_000_000}}
    )
    store = home.parent / "chips.zarr"
    opened = [
        tensorstore.open(
            {
                "driver": "zarr3",
                "kvstore": {"driver": "file", "path": f"{store}/{name}/data"},
                "recheck_cached_data": False,
            },
            read=True,
            context=context,
        ).result()
        for name in arrays
    ]

    def read() -> Iterable[object]:
        order = np.random.default_rng(0).permutation(count)
        for first in range(0, count, batch_size):
            rows = order[first : first + batch_size]
            yield [future.result() for future in [array[rows].read() for array in opened]]

    return read


def of_litdata(arrays: Arrays, home: Path, count: int) -> Pass:
    """litdata.optimize without compression, then StreamingDataset and StreamingDataLoader, shuffled."""
    import litdata

    indexes = list(range(count))
    function = ChipOf(arrays)
    litdata.optimize(function, indexes, str(home / "data"), chunk_bytes="64MB", num_workers=1)
    dataset = litdata.StreamingDataset(str(home / "data"), shuffle=True)
    loader = litdata.StreamingDataLoader(
        dataset, batch_size=batch_size, num_workers=workers, shuffle=True, persistent_workers=True
    )
    return lambda: loader


class ChipOf:
    """Gives the chip of a row; can be sent to other processes."""

    def __init__(self, arrays: Arrays) -> None:
        self.paths = {name: str(values.filename) for name, values in arrays.items()}
        self.arrays: Arrays | None = None

    def __call__(self, row: int) -> Arrays:
        if self.arrays is None:
            self.arrays = {name: np.load(path, mmap_mode="r") for name, path in self.paths.items()}
        return sample(self.arrays, row)

    def __getstate__(self) -> dict[str, object]:
        return {"paths": self.paths, "arrays": None}


def of_mds(arrays: Arrays, home: Path, count: int) -> Pass:
    """MosaicML's MDS without compression, StreamingDataset in a DataLoader, shuffled; its vision part is not imported,
    as it needs another build of torchvision."""
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    for name in ("torchvision", "torchvision.datasets", "torchvision.transforms", "torchvision.transforms.functional"):
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__spec__ = ModuleSpec(name, None)
    sys.modules["torchvision.datasets"].VisionDataset = object
    sys.modules["torchvision.transforms.functional"].to_tensor = None
    from streaming import MDSWriter, StreamingDataset
    from torch.utils.data import DataLoader

    columns = {
        name: f"ndarray:{values.dtype}:{','.join(map(str, values.shape[1:]))}" for name, values in arrays.items()
    }
    with MDSWriter(out=str(home / "data"), columns=columns, size_limit="64mb") as writer:
        for row in range(count):
            writer.write(sample(arrays, row))
    dataset = StreamingDataset(local=str(home / "data"), shuffle=True, batch_size=batch_size)
    loader = DataLoader(dataset, batch_size=batch_size, num_workers=workers, persistent_workers=True)
    return lambda: loader


def of_webdataset(arrays: Arrays, home: Path, count: int) -> Pass:
    """Tar files of raw .npy members, shards shuffled and a buffer of 512 chips, in a WebLoader."""
    import webdataset

    with webdataset.ShardWriter(str(home / "%04d.tar"), maxcount=128, verbose=0) as writer:
        for row in range(count):
            writer.write({"__key__": f"{row:08d}"} | {f"{name}.npy": one for name, one in sample(arrays, row).items()})
    urls = [str(path) for path in sorted(home.glob("*.tar"))]
    parts = tuple(f"{name}.npy" for name in arrays)
    dataset = webdataset.WebDataset(urls, shardshuffle=len(urls)).shuffle(512).decode().to_tuple(*parts)
    loader = webdataset.WebLoader(
        dataset.batched(batch_size), batch_size=None, num_workers=workers, persistent_workers=True
    )
    return lambda: loader


def of_ffcv(arrays: Arrays, home: Path, count: int) -> Pass:
    """A beton of the stored types, uncompressed, random order from the page cache, two worker threads."""
    from ffcv.fields import NDArrayField
    from ffcv.loader import Loader, OrderOption
    from ffcv.writer import DatasetWriter

    class Rows:
        def __len__(self) -> int:
            return count

        def __getitem__(self, row: int) -> tuple[np.ndarray, ...]:
            return tuple(sample(arrays, row).values())

    fields = {
        name: NDArrayField(shape=values.shape[1:], dtype=np.dtype(values.dtype)) for name, values in arrays.items()
    }
    path = str(home / "chips.beton")
    DatasetWriter(path, fields, num_workers=1).from_indexed_dataset(Rows())
    loader = Loader(
        path,
        batch_size=batch_size,
        num_workers=workers,
        order=OrderOption.RANDOM,
        os_cache=True,
        drop_last=False,
    )
    return lambda: loader


rivals: dict[str, Callable[[Arrays, Path, int], Pass]] = {
    "mmearth": of_mmearth,
    "h5py_blosc": of_h5py_blosc,
    "tensorstore": of_tensorstore,
    "litdata": of_litdata,
    "mds": of_mds,
    "webdataset": of_webdataset,
    "ffcv": of_ffcv,
}


if __name__ == "__main__":
    main()
