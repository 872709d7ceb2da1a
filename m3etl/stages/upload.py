"""Publishing a campaign on the Hugging Face Hub: what goes there, whether it may, and whether it arrived."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from m3etl.campaign import Campaign, write_atomically
from m3etl.errors import InputError, NothingSelectedError, RemoteError
from m3etl.io import hub
from m3etl.io.plan import read_stored
from m3etl.io.publication import (
    PublishedFile,
    entries_per_folder,
    git_sha1,
    hash_files,
    list_data_files,
    read_origins,
    write_metadata,
)
from m3etl.io.regions import shipped_regions
from m3etl.io.store import open_store, read_stats
from m3etl.spec.biomes import biome_name
from m3etl.spec.licensing import overall_license
from m3etl.spec.modality import ArraySpec
from m3etl.spec.region import globe
from m3etl.stages.card import CardFacts, describe_croissant, render_card, render_licenses
from m3etl.stages.summary import Progress, Summary

synthetic_suffix = "-synthetic"
card_files = ("README.md", "LICENSES.md", "metadata.parquet", "croissant.json", "manifest.json", "stats.json")


def run_upload(
    campaign: Campaign,
    *,
    repo: str = "",
    synthetic: bool = False,
    dry_run: bool = False,
    progress: Progress,
    api: hub.HubApi | None = None,
) -> Summary:
    """Write card, notices, table, Croissant and manifest into `hub/`; without `dry_run`, upload all of it and verify.

    The data must be whole and its terms known. Made-up data needs `synthetic`, and its repository name says so.
    Raises InputError for a wrong name, for planet data without `synthetic`, unpublishable terms or a broken Hub limit,
    AuthenticationError without a login, RemoteError if something has not arrived.
    """
    started = time.monotonic()
    repository = hub.check_repository(repo or campaign.config.hub.repo)
    if not campaign.store_path.exists() or not campaign.stats_path.exists():
        raise NothingSelectedError(
            f"nothing to upload in {campaign.root}: there is no finished data set",
            hint="Make it with `m3etl export`, `m3etl tile` and `m3etl normalize`.",
        )
    specs = tuple(open_store(campaign.store_path).specs.values())
    origins = read_origins(campaign, {spec.name: spec.license for spec in specs})
    if origins.synthetic and not synthetic:
        raise InputError(
            "this campaign holds made-up data of the embedded Earth Engine",
            hint="Publish it only on purpose: add --synthetic, which says so in the name and on the card.",
        )
    if origins.synthetic and "synthetic" not in repository.lower():
        repository = hub.check_repository(repository + synthetic_suffix)
        progress.say(f"the data is synthetic, so the repository is called {repository}")
    files = list_data_files(campaign)
    _check_limits(files)
    folder = campaign.root / "hub"
    folder.mkdir(exist_ok=True)
    facts = _card_facts(campaign, repository, specs, files, origins.synthetic, origins.licenses)
    published = _write_card_files(campaign, folder, facts, files, progress)
    if not dry_run:
        _upload(api or hub.open_hub(), repository, campaign, folder, published, facts.dataset_id, progress)
    return Summary(
        stage="upload-hf",
        done=0 if dry_run else len(published),
        skipped=len(published) if dry_run else 0,
        seconds=time.monotonic() - started,
        facts={
            "repository": repository,
            "license": facts.license.hub_id,
            "license name": facts.license.name,
            "synthetic": origins.synthetic,
            "chips": facts.chips,
            "files": len(published),
            "bytes": sum(file.size for file in published),
            "largest folder": max(entries_per_folder(published).values()),
            "card": str(folder / "README.md"),
            "manifest": str(folder / "manifest.json"),
            "uploaded": not dry_run,
        },
    )


def _check_limits(files: Sequence[PublishedFile]) -> None:
    problems = []
    if len(files) + len(card_files) > hub.max_files_per_repository:
        problems.append(f"{len(files):,} files (at most {hub.max_files_per_repository:,})")
    for folder, count in entries_per_folder(files).items():
        if count > hub.max_entries_per_folder:
            problems.append(f"{count:,} entries in {folder} (at most {hub.max_entries_per_folder:,})")
    problems.extend(f"{file.path} is larger than 500 GB" for file in files if file.size > hub.max_file_bytes)
    if problems:
        raise InputError(
            "the Hub does not take this data set: " + "; ".join(problems),
            hint="Use larger shards (store.shard_chips in campaign.toml) in a new campaign, or upload a part.",
        )


def _card_facts(
    campaign: Campaign,
    repository: str,
    specs: Sequence[ArraySpec],
    files: Sequence[PublishedFile],
    synthetic: bool,
    used: Mapping[str, frozenset[str]],
) -> CardFacts:
    overall = overall_license(used)
    stored = read_stored(campaign.plan_path, ["split", "biome", "region", "year"])
    return CardFacts(
        repository=repository,
        synthetic=synthetic,
        license=overall,
        specs=specs,
        chip_m=campaign.chip_m,
        chips=len(stored),
        splits=_counts(stored["split"]),
        biomes={
            biome_name(int(code)) if int(code) >= 0 else "no biome (rock, ice, sea)": count
            for code, count in _counts(stored["biome"]).items()
        },
        regions=_region_counts(stored["region"]),
        split_by=campaign.config.split.by,
        buffer_km=campaign.config.split.buffer_km,
        years=sorted({int(year) for year in stored["year"].dropna()}),
        bytes=sum(file.size for file in files),
        dataset_id=str(read_stats(campaign.stats_path).get("dataset_id", "")),
    )


def _counts(column: pd.Series[Any]) -> dict[str, int]:
    return {str(name): int(count) for name, count in column.value_counts().sort_index().items()}


def _region_counts(column: pd.Series[Any]) -> dict[str, int]:
    """Chips by the title of their region, most first; those in no shipped region come last."""
    counts = column.fillna("").value_counts()
    titles = {region.name: region.title for region in shipped_regions()}
    elsewhere = {"", globe}
    named = {titles.get(str(name), str(name)): int(count) for name, count in counts.items() if name not in elsewhere}
    rest = sum(int(count) for name, count in counts.items() if name in elsewhere)
    return {**named, **({"elsewhere" if named else "the whole globe": rest} if rest else {})}


def _write_card_files(
    campaign: Campaign, folder: Path, facts: CardFacts, data_files: Sequence[PublishedFile], progress: Progress
) -> list[PublishedFile]:
    """Write everything that goes beside the data; returns all published files with their checksums."""
    write_atomically(folder / "stats.json", campaign.stats_path.read_bytes())
    table = folder / "metadata.parquet"
    write_metadata(table, campaign, read_stored(campaign.plan_path), [spec.name for spec in facts.specs])
    progress.start("checksums", len(data_files))
    hashed = []
    for file in hash_files(data_files):
        hashed.append(file)
        progress.advance()
    progress.finish()
    table_file, stats_file = hash_files([_card_file(folder, name) for name in ("metadata.parquet", "stats.json")])
    croissant = describe_croissant(facts, _croissant_columns(table), table_file.sha256)
    write_atomically(folder / "README.md", render_card(facts).encode())
    write_atomically(folder / "LICENSES.md", render_licenses(facts).encode())
    write_atomically(folder / "croissant.json", _json_bytes(croissant))
    texts = hash_files([_card_file(folder, name) for name in ("README.md", "LICENSES.md", "croissant.json")])
    published = [*hashed, table_file, stats_file, *texts]
    manifest = {
        "repository": facts.repository,
        "dataset_id": facts.dataset_id,
        "synthetic": facts.synthetic,
        "files": [{"path": file.path, "size": file.size, "sha256": file.sha256} for file in published],
    }
    write_atomically(folder / "manifest.json", _json_bytes(manifest))
    return [*published, *hash_files([_card_file(folder, "manifest.json")])]


def _card_file(folder: Path, name: str) -> PublishedFile:
    source = folder / name
    return PublishedFile(path=name, source=source, size=source.stat().st_size)


def _json_bytes(document: Any) -> bytes:
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()


def _croissant_columns(table: Path) -> dict[str, str]:
    kinds = {}
    for field in pq.read_schema(table):
        text = str(field.type)
        if text.startswith(("int", "uint")):
            kinds[field.name] = "sc:Integer"
        elif text.startswith(("float", "double")):
            kinds[field.name] = "sc:Float"
        elif text.startswith(("timestamp", "date")):
            kinds[field.name] = "sc:Date"
        else:
            kinds[field.name] = "sc:Boolean" if text == "bool" else "sc:Text"
    return kinds


def _upload(
    api: hub.HubApi,
    repository: str,
    campaign: Campaign,
    folder: Path,
    published: Sequence[PublishedFile],
    dataset_id: str,
    progress: Progress,
) -> None:
    """Data first, the card last, so that it never describes what is not there yet; then compare with the manifest."""
    hub.check_login(api)
    hub.create_repository(api, repository)
    for source, inside in ((campaign.store_path, "chips.zarr"), (campaign.provenance_path, "provenance"), (folder, "")):
        progress.say(f"uploading {inside or 'the card'} to {repository}")
        hub.upload_folder(api, repository, source, inside, f"{inside or 'card'} of data set {dataset_id[:12]}")
    arrived = hub.list_remote_files(api, repository)
    lost = [file.path for file in published if not _has_arrived(file, arrived.get(file.path))]
    if lost:
        raise RemoteError(
            f"{len(lost):,} of {len(published):,} files have not arrived whole at {repository}: {', '.join(lost[:5])}",
            hint="Run the same command again; it sends only what is missing.",
        )
    hub.tag_revision(api, repository, f"dataset-{dataset_id[:12]}")


def _has_arrived(file: PublishedFile, remote: hub.RemoteFile | None) -> bool:
    """Whether the Hub holds the same bytes: by sha256 for large files, by git's own checksum for those kept in git."""
    if remote is None or remote.size != file.size:
        return False
    if remote.sha256:
        return remote.sha256 == file.sha256
    return not remote.git_sha1 or remote.git_sha1 == git_sha1(file.source)
