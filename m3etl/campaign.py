"""The campaign directory: where everything of one data set lies, its configuration file, and the lock that keeps
a second process out."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import tomli_w

from m3etl import __version__
from m3etl.errors import DamagedError, InputError

format_version = 1
_part_pattern = re.compile(r"ledger-(\d+)-of-(\d+)\.sqlite")


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleConfig:
    """How the plan is drawn. strategy: biome, grid or points; biomes: ids 0-13; years inclusive; spacing in metres.

    per_ecoregion: the same number for every ecoregion, instead of by biome and area; exclude: files or regions whose
    places no chip may touch or come nearer to than exclude_buffer_km.
    """

    strategy: str = "biome"
    biomes: tuple[int, ...] = tuple(range(14))
    chips: int = 112
    region: str = "globe"
    points: str = ""
    chip_px: int = 128
    years: tuple[int, int] = (2017, 2020)
    seed: int = 0
    reserve_fraction: float = 0.25
    spacing_m: float = 0.0
    per_ecoregion: bool = False
    exclude: tuple[str, ...] = ()
    exclude_buffer_km: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitConfig:
    """How chips are shared out over train, val and test, always by place.

    by: block (random equal-area blocks of block_km), bands (straight bands across the region at an angle in radians),
    ecoregion, region (hold_out names regions or files: test) or points (the column split of the points, or of a CSV
    `file` with the column identifier). Fractions are of blocks, bands or ecoregions; buffer_km: chips of different
    splits are at least so far apart.
    """

    by: str = "block"
    seed: int = 0
    block_km: float = 100.0
    buffer_km: float = 5.0
    train: float = 0.8
    val: float = 0.1
    test: float = 0.1
    bands: int = 60
    angle: float = 0.9
    hold_out: tuple[str, ...] = ()
    file: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig:
    """How scenes are chosen and fetched. s2: auto (L2A, else L1C), l2a, l1c or both.

    anchor_rule: random (among good scenes) or best;
    max_cloud and min_valid are fractions over the chip; candidates: scenes scored per chip; requests_per_second and
    max_in_flight: the service's quota; check_every: one request in so many carries the pixel-coordinate check band;
    profile_every: one in so many is profiled for its EECU-seconds.
    lane: pixels (one request per chip) or batch (export tasks into `bucket`, gs://NAME/prefix); of tasks:
    batch_tile_px pixels a side at most, batch_in_flight at a time (0: as many as the project runs), given up after
    batch_deadline_h hours.
    """

    modalities: tuple[str, ...] = ()
    s2: str = "auto"
    anchor_rule: str = "random"
    max_cloud: float = 0.1
    min_valid: float = 0.95
    candidates: int = 8
    s1_max_gap_days: float = 30.0
    plan_batch: int = 50
    requests_per_second: float = 100.0
    max_in_flight: int = 40
    max_attempts: int = 6
    deadline_s: float = 330.0
    check_every: int = 50
    max_in_flight_mb: int = 384
    block_chips: int = 0
    profile_every: int = 200
    lane: str = "pixels"
    bucket: str = ""
    batch_tile_px: int = 8192
    batch_in_flight: int = 0
    batch_deadline_h: float = 240.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreConfig:
    """codec: zstd (blosc zstd-3, default), fast (blosc lz4) or none; shard_chips and lot_chips (chips whose scenes are
    fixed together) 0 means chosen by the rule.
    """

    codec: str = "zstd"
    shard_chips: int = 0
    lot_chips: int = 0
    keep_raw: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EarthEngineConfig:
    """Where the data came from: url ("" for the real service, "embedded", or http://...), project, archive folder."""

    url: str = ""
    project: str = ""
    archive: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubConfig:
    """Where `upload-hf` publishes: ORG/NAME."""

    repo: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceConfig:
    """Rasters of your own that hold an array. files: paths (from the campaign's directory), patterns, folders, URLs.

    bands: names of the files' bands in their order; nodata: the number that marks missing pixels, `nan`, or `none`
    where none is missing; values: `physical` or `stored` (the array's own steps); resampling: nearest, mode, bilinear,
    cubic or average. What is empty follows from the files and the array. license: SPDX id or one of the catalogue's.
    """

    files: tuple[str, ...] = ()
    bands: tuple[str, ...] = ()
    nodata: str = ""
    values: str = ""
    resampling: str = ""
    license: str = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignConfig:
    """campaign.toml, resolved. catalogue: array name -> sha256 of the declaration it was made with; additions: what
    `sample --add` was asked for, by number; sources: array name -> the user's own rasters that it comes from.
    """

    sample: SampleConfig = field(default_factory=SampleConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
    earthengine: EarthEngineConfig = field(default_factory=EarthEngineConfig)
    hub: HubConfig = field(default_factory=HubConfig)
    catalogue: Mapping[str, str] = field(default_factory=dict)
    additions: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, SourceConfig] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Campaign:
    """One campaign directory and its configuration.

    part: (i, n) where this process does the i-th of n parts, from 1, with a ledger of its own; addition: the number of
    a modality's ledger that is added to existing rows, 0 for the campaign's own.
    """

    root: Path
    config: CampaignConfig
    part: tuple[int, int] | None = None
    addition: int = 0

    @property
    def config_path(self) -> Path:
        return self.root / "campaign.toml"

    @property
    def plan_path(self) -> Path:
        return self.root / "chips.parquet"

    @property
    def ledger_path(self) -> Path:
        return self.root / f"ledger{self._suffix}.sqlite"

    @property
    def parts_here(self) -> list[Campaign]:
        """The parts of this campaign that have a ledger in its directory, in order."""
        found = (_part_pattern.fullmatch(path.name) for path in self.root.glob("ledger-*-of-*.sqlite"))
        parts = sorted((int(item[1]), int(item[2])) for item in found if item)
        return [replace(self, part=part, addition=0) for part in parts]

    @property
    def with_ledger(self) -> list[Campaign]:
        """This campaign where it has a ledger, else its parts that are here; empty before any export."""
        whole = replace(self, part=None, addition=0)
        return [whole] if whole.ledger_path.exists() else self.parts_here

    @property
    def raw_path(self) -> Path:
        return self.root / "raw" / self._suffix.lstrip("-")

    @property
    def store_path(self) -> Path:
        return self.root / "chips.zarr"

    @property
    def provenance_path(self) -> Path:
        return self.root / "provenance"

    @property
    def presence_path(self) -> Path:
        return self.root / "presence.parquet"

    @property
    def stats_path(self) -> Path:
        return self.root / "stats.json"

    @property
    def previews_path(self) -> Path:
        return self.root / "previews"

    @property
    def runs_path(self) -> Path:
        return self.root / "runs"

    @property
    def chip_m(self) -> float:
        """Side of a chip in metres: chip_px pixels of 10 m."""
        return self.config.sample.chip_px * 10.0

    @property
    def _suffix(self) -> str:
        part = f"-{self.part[0]}-of-{self.part[1]}" if self.part else ""
        return f"{part}-added-{self.addition}" if self.addition else part

    def with_config(self, **sections: Any) -> Campaign:
        """The same campaign with some sections of the configuration replaced (not yet saved)."""
        return replace(self, config=replace(self.config, **sections))


def open_campaign(root: Path) -> Campaign:
    """The campaign in `root`, its own declarations known; InputError where there is no campaign.toml, DamagedError
    where it is unreadable.
    """
    path = root / "campaign.toml"
    if not path.is_file():
        raise InputError(
            f"no campaign in {root}: there is no campaign.toml",
            hint="Start one here with `m3etl sample`, or name the campaign's directory with `m3etl -C DIR`.",
        )
    from m3etl.io.declared import declare_of_campaign

    declare_of_campaign(root)
    return Campaign(root, read_config(path))


def create_campaign(root: Path, config: CampaignConfig) -> Campaign:
    """A campaign directory with this configuration; the directory may exist, a campaign in it may not."""
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot create the campaign directory {root}: {error.strerror}") from error
    campaign = Campaign(root, config)
    if campaign.config_path.exists():
        raise InputError(f"{root} already holds a campaign", hint="Use another directory with `m3etl -C DIR`.")
    save_config(campaign)
    return campaign


def save_config(campaign: Campaign) -> None:
    """Write campaign.toml by rename, so that it is whole at any moment."""
    document = {"format_version": format_version, "m3etl_version": __version__, **_plain(campaign.config)}
    write_atomically(campaign.config_path, tomli_w.dumps(document).encode())


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` under a temporary name, flush it to the disk and rename it to `path`."""
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise InputError(
            f"cannot write {path}: {error.strerror}",
            hint="Free some space or make the directory writable, then run again.",
        ) from error


def ensure_directory(path: Path) -> None:
    """Make a directory of the campaign where it is missing; InputError where the disk refuses."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot create {path}: {error.strerror}", hint="Is the directory read-only?") from error


@contextlib.contextmanager
def locked(campaign: Campaign) -> Iterator[None]:
    """Hold the campaign's lock; InputError if another process has it. The lock dies with its process.

    A part holds the lock of that part, beside other parts; everything else keeps the parts out too.
    """
    with contextlib.ExitStack() as held:
        if campaign.part is None:
            held.enter_context(_file_lock(campaign.root, ".lock", fcntl.LOCK_EX | fcntl.LOCK_NB))
        else:
            held.enter_context(_file_lock(campaign.root, ".lock", fcntl.LOCK_SH | fcntl.LOCK_NB))
            name = ".lock-{}-of-{}".format(*campaign.part)
            held.enter_context(_file_lock(campaign.root, name, fcntl.LOCK_EX | fcntl.LOCK_NB))
        yield


@contextlib.contextmanager
def store_locked(campaign: Campaign) -> Iterator[None]:
    """Hold the lock of the store's metadata, which the parts of a campaign share; waits for it."""
    with _file_lock(campaign.root, ".lock-store", fcntl.LOCK_EX):
        yield


@contextlib.contextmanager
def _file_lock(root: Path, name: str, mode: int) -> Iterator[None]:
    try:
        handle = (root / name).open("a+b")
    except OSError as error:
        raise InputError(f"cannot write in {root}: {error.strerror}", hint="Is the directory read-only?") from error
    with handle:
        try:
            fcntl.flock(handle, mode)
        except OSError as error:
            raise InputError(
                f"another m3etl process works on {root}", hint="Wait for it to end, or stop it, and run again."
            ) from error
        yield


def read_config(path: Path) -> CampaignConfig:
    """campaign.toml as a configuration. Every unknown key, wrong type or other version is named."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DamagedError(f"cannot read {path}: {error}", hint="Repair the file or restore it from a copy.") from error
    version = document.pop("format_version", None)
    if version != format_version:
        raise DamagedError(
            f"{path} has format version {version!r}; this m3etl {__version__} reads version {format_version}",
            hint=f"It was written by m3etl {document.get('m3etl_version', 'of unknown version')}: use that version.",
        )
    document.pop("m3etl_version", None)
    problems: list[str] = []
    config = _filled(CampaignConfig, document, "", problems)
    if problems:
        raise InputError(f"{path} is wrong: " + "; ".join(problems), hint="Correct or remove these keys.")
    return config  # type: ignore[no-any-return]


def _filled(kind: Any, data: Any, where: str, problems: list[str]) -> Any:
    if not isinstance(data, dict):
        problems.append(f"[{where}] must be a table")
        return kind()
    hints = get_type_hints(kind)
    known = {item.name for item in fields(kind)}
    problems.extend(f"unknown key {where}{name}" for name in data if name not in known)
    values = {}
    for name in known & set(data):
        kind_of_items = get_args(hints[name])[-1] if get_origin(hints[name]) is Mapping else None
        if is_dataclass(hints[name]):
            values[name] = _filled(hints[name], data[name], f"{where}{name}.", problems)
        elif is_dataclass(kind_of_items) and isinstance(data[name], dict):
            values[name] = {
                key: _filled(kind_of_items, item, f"{where}{name}.{key}.", problems) for key, item in data[name].items()
            }
        else:
            try:
                values[name] = _converted(hints[name], data[name])
            except (TypeError, ValueError):
                problems.append(f"{where}{name} = {data[name]!r} is not of type {_type_name(hints[name])}")
    return kind(**values)


def _converted(hint: Any, value: Any) -> Any:
    origin = get_origin(hint)
    if origin is tuple:
        if not isinstance(value, list):
            raise TypeError
        arguments = get_args(hint)
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(kinds) != len(value):
            raise ValueError
        return tuple(_converted(kind, item) for kind, item in zip(kinds, value, strict=True))
    if origin is not None:
        if not isinstance(value, dict):
            raise TypeError
        return {str(key): _converted(get_args(hint)[1], item) for key, item in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise TypeError
    return value


def _type_name(hint: Any) -> str:
    return str(hint) if get_origin(hint) else str(getattr(hint, "__name__", hint))


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value
