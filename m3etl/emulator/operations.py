"""One batch operation: its state, its identity, and how the REST API shows it."""

from __future__ import annotations

import base64
import hashlib
import re
import uuid
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from m3etl.emulator.model import invalid

finished_states = {"SUCCEEDED", "CANCELLED", "FAILED"}
_request_id = re.compile(r"[A-Za-z0-9-]{1,60}")
_metadata_type = "type.googleapis.com/google.earthengine.v1.OperationMetadata"


@dataclass(slots=True, kw_only=True)
class Operation:
    """The state of one operation; times are UTC in ISO 8601 with Z."""

    id: str
    project: str
    kind: str
    description: str
    priority: int
    order: int
    created: str
    updated: str
    owner: str
    state: str = "PENDING"
    started: str | None = None
    ended: str | None = None
    attempt: int = 0
    progress: float = 0.0
    error_code: int | None = None
    error_message: str | None = None
    uris: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    eecu_s: float = 0.0
    tag: str | None = None

    @property
    def name(self) -> str:
        """The resource name, projects/P/operations/ID."""
        return f"projects/{self.project}/operations/{self.id}"

    @property
    def done(self) -> bool:
        """Whether it has succeeded, failed or been cancelled."""
        return self.state in finished_states

    def resource(self) -> dict[str, Any]:
        """The Operation as the REST API shows it."""
        metadata: dict[str, Any] = {
            "@type": _metadata_type,
            "state": self.state,
            "type": self.kind,
            "description": self.description,
            "createTime": self.created,
            "updateTime": self.updated,
            "priority": self.priority,
            "attempt": max(1, self.attempt),
            "progress": self.progress,
            "stages": self._stages(),
        }
        if self.started is not None:
            metadata["startTime"] = self.started
        if self.ended is not None:
            metadata["endTime"] = self.ended
        if self.eecu_s:
            metadata["batchEecuUsageSeconds"] = self.eecu_s
        if self.uris and self.state == "SUCCEEDED":
            metadata["destinationUris"] = self.uris
        resource: dict[str, Any] = {"name": self.name, "metadata": metadata}
        if self.done:
            resource["done"] = True
        if self.state == "SUCCEEDED":
            resource["response"] = {"@type": "type.googleapis.com/google.protobuf.Empty"}
        elif self.error_code is not None:
            resource["error"] = {"code": self.error_code, "message": self.error_message}
        return resource

    def _stages(self) -> list[dict[str, Any]]:
        if self.started is None:
            return []
        name = "Create Local Files" if self.kind == "EXPORT_IMAGE" else "Write Table"
        return [{"displayName": name, "completeWorkUnits": self.progress, "totalWorkUnits": "1"}]


def operation_id(project: str, request_id: Any) -> str:
    """24 letters and digits; the same for the same project and request id, random without a request id."""
    if request_id in (None, ""):
        request_id = str(uuid.uuid4())
    if not isinstance(request_id, str) or not _request_id.fullmatch(request_id):
        raise invalid(f"Invalid request id {request_id!r}: at most 60 of the characters a-z, A-Z, 0-9 and -.")
    digest = hashlib.sha256(f"{project}\n{request_id}".encode()).digest()
    return base64.b32encode(digest).decode()[:24]


def timestamp(time: datetime) -> str:
    """A UTC time as the API writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
