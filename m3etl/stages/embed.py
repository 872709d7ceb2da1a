"""`m3etl embed`: the features of every chip that has Sentinel-2, as one Parquet file."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from m3etl.campaign import Campaign
from m3etl.errors import InputError, NothingSelectedError
from m3etl.io.store import open_store
from m3etl.stages.pretrain import needs_training_extra
from m3etl.stages.summary import Progress, Summary

file_name = "embeddings.parquet"


def run_embed(
    campaign: Campaign, *, checkpoint: Path | None = None, output: Path | None = None, progress: Progress
) -> Summary:
    """Write chip_id, row, split, lon, lat and `features` (fixed-size list of float32) of each chip, by row.

    checkpoint: of this or another campaign, by default the longest finished run; output: by default embeddings.parquet
    in its run. Written under a temporary name and renamed. Chips without Sentinel-2 are counted as rejected.
    """
    needs_training_extra()
    import torch

    from m3etl.learn.checkpoint import find_runs, load_encoder, read_checkpoint
    from m3etl.learn.features import encoder_features, read_features

    started = time.monotonic()
    if not campaign.store_path.exists():
        raise NothingSelectedError(f"there are no chips in {campaign.root}", hint="Run `m3etl export` first.")
    runs = [run for run in find_runs(campaign.runs_path) if run.state["finished"]]
    if checkpoint is None and not runs:
        raise NothingSelectedError(f"no finished run in {campaign.runs_path}", hint="Run `m3etl pretrain` first.")
    found = read_checkpoint(checkpoint) if checkpoint is not None else runs[0]
    encoder = load_encoder(found.path)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    store = open_store(campaign.store_path)
    chips = int((store.chip_ids != "").sum())
    path = output or found.path.parents[1] / file_name
    schema = _schema(encoder.width, {"checkpoint": found.path.name, "dataset_id": str(found.state["dataset_id"])})
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    progress.start("features", chips)
    done = 0
    try:
        with pq.ParquetWriter(temporary, schema) as writer:
            for part in read_features(
                campaign.root,
                normalizer=encoder.normalizer,
                extractors={"encoder": encoder_features(encoder.encoder.to(device))},
                split=None,
                device=device,
                report=progress.advance,
            ):
                values = part.features["encoder"]
                columns = [
                    pa.array(store.chip_ids[part.rows].tolist(), pa.string()),
                    pa.array(part.rows, pa.int64()),
                    pa.array(store.split[part.rows].tolist(), pa.string()),
                    pa.array(store.lon[part.rows], pa.float64()),
                    pa.array(store.lat[part.rows], pa.float64()),
                    pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), encoder.width),
                ]
                writer.write_batch(pa.record_batch(columns, schema=schema))
                done += len(part.rows)
        temporary.replace(path)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}", hint="Free some space, or name another --output."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    progress.finish()
    facts = {"embeddings": str(path), "features": encoder.width, "checkpoint": str(found.path)}
    return Summary(stage="embed", done=done, rejected=chips - done, seconds=time.monotonic() - started, facts=facts)


def _schema(width: int, origin: dict[str, str]) -> pa.Schema:
    return pa.schema(
        [
            ("chip_id", pa.string()),
            ("row", pa.int64()),
            ("split", pa.string()),
            ("lon", pa.float64()),
            ("lat", pa.float64()),
            ("features", pa.list_(pa.float32(), width)),
        ],
        metadata={"m3etl": json.dumps(origin)},
    )
