"""Batch exports of Earth Engine: what is asked for a task, under an identity that makes asking twice harmless, and what
an operation says about itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from m3etl.io.earthengine import Session, translated
from m3etl.io.objects import BucketPlace
from m3etl.io.outcomes import Failure, Kind, Reaction, RequestFailed, classify, reactions
from m3etl.io.recipes import stored_image
from m3etl.spec.exporttasks import ExportTask, request_id
from m3etl.spec.modality import ArraySpec

# https://developers.google.com/earth-engine/guides/usage: tasks that wait, tasks that run at a time.
most_queued = 3_000
usual_running = 2

block_px = 256  # blocks of the files; the service's default
file_px = 8_192  # larger exports become several files
file_stem = "pixels"
_http_of_rpc = {3: 400, 4: 504, 5: 404, 6: 409, 7: 403, 8: 429, 10: 503, 13: 500, 14: 503, 16: 401}
_queue_full = re.compile(r"too many tasks", re.IGNORECASE)
_known_already = re.compile(r"already (?:exists|been used|started)|duplicate", re.IGNORECASE)
_bucket_trouble = re.compile(r"\bbucket\b|storage\.(?:objects|buckets)|cloud storage", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What the service says about one attempt. failure: why it came to nothing, None while it runs or went well."""

    name: str
    done: bool
    failure: Failure | None = None
    eecu_seconds: float = 0.0


class ExportService(Protocol):
    """Runs export tasks. Every method raises RequestFailed; a full queue is Kind.RATE."""

    def running_limit(self) -> int:
        """Tasks that run at a time."""

    def submit(self, job: str, attempt: int, task: ExportTask) -> str:
        """Ask for an attempt and return the name of its operation; the same one if it was asked for before."""

    def look(self, name: str) -> Operation:
        """How an operation stands."""

    def cancel(self, name: str) -> None:
        """End an operation."""


def blames_bucket(failure: Failure) -> bool:
    """Whether a failure lies in the bucket, so that every task would fail in the same way."""
    lasting = reactions[failure.kind] in (Reaction.GIVE_UP, Reaction.STOP)
    return lasting and bool(_bucket_trouble.search(failure.message))


def folder_of(job: str, attempt: int) -> str:
    """The folder, below the bucket's prefix, in which the files of an attempt land."""
    return f"{job}-{attempt}"


class Exports:
    """The export tasks of a session, into one bucket."""

    def __init__(self, session: Session, place: BucketPlace, specs: Mapping[str, ArraySpec]) -> None:
        self._session = session
        self._place = place
        self._specs = specs

    def running_limit(self) -> int:
        """What the project's configuration says; 2 where it may not be read."""
        try:
            with translated(self._session.api):
                found = self._session.api.data.getProjectConfig().get("maxConcurrentExports")
        except RequestFailed:
            return usual_running
        return int(found or usual_running)

    def submit(self, job: str, attempt: int, task: ExportTask) -> str:
        """Raises RequestFailed; Kind.RATE where the queue is full."""
        identity = request_id(job, attempt)
        params = self._params(job, attempt, task)
        self._session.requests += 1
        try:
            with translated(self._session.api):
                return str(self._session.api.data.exportImage(identity, params)["name"])
        except RequestFailed as failed:
            failure = failed.failure
            if _queue_full.search(failure.message):
                raise RequestFailed(Failure(kind=Kind.RATE, message=failure.message, status=429)) from failed
            known = self._find(_description(job, attempt)) if _known_already.search(failure.message) else ""
            if known:
                return known
            raise

    def look(self, name: str) -> Operation:
        """Raises RequestFailed."""
        self._session.requests += 1
        with translated(self._session.api):
            answer = self._session.api.data.getOperation(name)
            return _as_operation(answer)

    def cancel(self, name: str) -> None:
        """Raises RequestFailed."""
        with translated(self._session.api):
            self._session.api.data.cancelOperation(name)

    def _find(self, description: str) -> str:
        with translated(self._session.api):
            operations = self._session.api.data.listOperations()
        named = (item["name"] for item in operations if item.get("metadata", {}).get("description") == description)
        return next(named, "")

    def _params(self, job: str, attempt: int, task: ExportTask) -> dict[str, Any]:
        # Only the request is built here; the task object's own start would draw another identity.
        request: dict[str, Any] = self._session.api.batch.Export.image.toCloudStorage(
            image=task_image(task, self._specs),
            description=_description(job, attempt),
            bucket=self._place.name,
            fileNamePrefix=f"{self._place.prefix}{folder_of(job, attempt)}/{file_stem}",
            crs=f"EPSG:{task.epsg}",
            crsTransform=list(task.affine),
            dimensions=f"{task.width}x{task.height}",
            maxPixels=task.width * task.height,
            shardSize=block_px,
            fileDimensions=file_px,
            formatOptions={"cloudOptimized": True},
        ).config
        return {**request, "workloadTag": "m3etl-batch"}


def task_image(task: ExportTask, specs: Mapping[str, ArraySpec]) -> Any:
    """The image of a task: the same expression as in the pixel lane, fill wherever nothing was observed."""
    images = [stored_image(specs[name], scene_ids) for name, scene_ids in task.scenes.items()]
    combined = images[0]
    for image in images[1:]:
        combined = combined.addBands(image)
    return combined


def _description(job: str, attempt: int) -> str:
    return f"m3etl-{job}-{attempt}"


def _as_operation(answer: Mapping[str, Any]) -> Operation:
    metadata = answer.get("metadata", {})
    state, error = metadata["state"], answer.get("error")
    failure = None
    if state == "CANCELLED":
        failure = Failure(kind=Kind.CANCELLED, message="the task was cancelled at Earth Engine")
    elif state == "FAILED":
        error = error or {}
        failure = classify(_http_of_rpc.get(int(error.get("code") or 3), 500), str(error.get("message") or "failed"))
    return Operation(
        name=str(answer["name"]),
        done=state in ("SUCCEEDED", "FAILED", "CANCELLED"),
        failure=failure,
        eecu_seconds=float(metadata.get("batchEecuUsageSeconds") or 0.0),
    )
