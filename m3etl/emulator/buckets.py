"""Exported files as Cloud Storage objects: the parts of its JSON and XML APIs that readers use.

Served are bucket metadata, listing with prefix, delimiter and pages, object metadata, media with ranges, small uploads
and deletion, for google-cloud-storage, gcsfs, obstore and plain HTTP readers (GDAL's /vsicurl). Any valid bucket name
exists.
"""

from __future__ import annotations

import base64
import hashlib
import mimetypes
import os
import re
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from urllib.parse import quote
from xml.sax.saxutils import escape

from m3etl.emulator.listing import page_size, read_token, write_token
from m3etl.emulator.messages import FileSlice, Request, Response, error_response, failure, json_response
from m3etl.emulator.model import not_found

_bucket_name = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_object_path = re.compile(r"/(?:download/)?storage/v1/b/(?P<bucket>[^/]+)/o/(?P<object>.+)", re.DOTALL)
_list_path = re.compile(r"/storage/v1/b/(?P<bucket>[^/]+)/o")
_bucket_path = re.compile(r"/storage/v1/b/(?P<bucket>[^/]+)")
_range = re.compile(r"bytes=(\d*)-(\d*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """A file below a bucket's directory."""

    bucket: str
    name: str
    path: Path
    size: int
    modified_ns: int

    @property
    def generation(self) -> str:
        """Microseconds of the last change: a new number whenever the object is replaced."""
        return str(self.modified_ns // 1000)

    @property
    def content_type(self) -> str:
        """By the name's extension."""
        return mimetypes.guess_type(self.name)[0] or "application/octet-stream"

    @property
    def modified(self) -> datetime:
        """Time of the last change, UTC."""
        return datetime.fromtimestamp(self.modified_ns / 1e9, UTC)


class Buckets:
    """Cloud Storage over `directory`, which has one directory per bucket. Thread-safe."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._sums: dict[tuple[str, int, int], tuple[str, str]] = {}
        self._lock = threading.Lock()

    def handle(self, request: Request, root_url: str) -> Response | None:
        """The answer to a storage request; None when the request is not about storage."""
        path = request.path
        if match := _object_path.fullmatch(path):
            return self._object(request, match["bucket"], match["object"], root_url)
        if match := _list_path.fullmatch(path):
            return self._list_json(request, self._check(match["bucket"]), root_url)
        if match := _bucket_path.fullmatch(path):
            name = self._check(match["bucket"])
            return json_response({"kind": "storage#bucket", "id": name, "name": name, "storageClass": "STANDARD"})
        bucket, _, name = path.lstrip("/").partition("/")
        return self._handle_xml(request, bucket, name) if _bucket_name.fullmatch(bucket) else None

    def _handle_xml(self, request: Request, bucket: str, name: str) -> Response | None:
        if name and request.method == "PUT":
            return self._put(bucket, name, request)
        if name and request.method == "DELETE":
            return self._delete(self._find(bucket, name))
        if request.method not in ("GET", "HEAD"):
            return None
        if name:
            return self._media(self._find(bucket, name), request) if (self._directory / bucket).is_dir() else None
        return self._list_xml(request, bucket) if "list-type" in request.query else None

    def _check(self, bucket: str) -> str:
        if not _bucket_name.fullmatch(bucket):
            raise failure(400, f"Invalid bucket name: '{bucket}'")
        return bucket

    def _object(self, request: Request, bucket: str, name: str, root_url: str) -> Response:
        found = self._find(self._check(bucket), name)
        if request.method == "DELETE":
            return self._delete(found)
        if request.method not in ("GET", "HEAD"):
            return error_response(501, "The embedded Cloud Storage is read-only.")
        if request.query.get("alt") == "media" or request.path.startswith("/download/"):
            return self._media(found, request)
        return json_response(self._resource(found, root_url))

    def _put(self, bucket: str, name: str, request: Request) -> Response:
        path = self._path(bucket, name)
        if path is None:
            raise failure(400, f"Invalid object name: '{name}'")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
        temporary.write_bytes(request.body)
        temporary.replace(path)
        return Response(headers={"ETag": f'"{_stored(bucket, name, path).generation}"'})

    def _delete(self, item: StoredObject) -> Response:
        item.path.unlink(missing_ok=True)
        return Response(status=204)

    def _path(self, bucket: str, name: str) -> Path | None:
        """Where an object of that name lies; None for a name that no object here can have."""
        parts = name.split("/")
        possible = "\0" not in name and not any(part in ("", ".", "..") for part in parts)
        return self._directory.joinpath(bucket, *parts) if possible else None

    def _find(self, bucket: str, name: str) -> StoredObject:
        path = self._path(bucket, name)
        if path is not None and path.is_file():
            return _stored(bucket, name, path)
        raise not_found(f"No such object: {bucket}/{name}")

    def _media(self, item: StoredObject, request: Request) -> Response:
        crc32c, md5 = self._hashes(item)
        headers = {
            "Accept-Ranges": "bytes",
            "ETag": f'"{item.generation}"',
            "Last-Modified": format_datetime(item.modified, usegmt=True),
            "x-goog-generation": item.generation,
            "x-goog-stored-content-length": str(item.size),
            "x-goog-hash": f"crc32c={crc32c},md5={md5}",
        }
        wanted = _parse_range(request.headers.get("range"), item.size)
        if wanted is None:
            return Response(
                status=416, content_type=item.content_type, headers=headers | {"Content-Range": f"bytes */{item.size}"}
            )
        start, length = wanted
        partial = length < item.size
        if partial:
            headers["Content-Range"] = f"bytes {start}-{start + length - 1}/{item.size}"
        return Response(
            status=206 if partial else 200,
            body=FileSlice(item.path, start, length),
            content_type=item.content_type,
            headers=headers,
        )

    def _resource(self, item: StoredObject, root_url: str) -> dict[str, str]:
        crc32c, md5 = self._hashes(item)
        stamp = item.modified.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        path = f"storage/v1/b/{item.bucket}/o/{quote(item.name, safe='')}"
        return {
            "kind": "storage#object",
            "id": f"{item.bucket}/{item.name}/{item.generation}",
            "selfLink": f"{root_url}{path}",
            "mediaLink": f"{root_url}download/{path}?generation={item.generation}&alt=media",
            "name": item.name,
            "bucket": item.bucket,
            "generation": item.generation,
            "metageneration": "1",
            "contentType": item.content_type,
            "storageClass": "STANDARD",
            "size": str(item.size),
            "crc32c": crc32c,
            "md5Hash": md5,
            "etag": item.generation,
            "timeCreated": stamp,
            "updated": stamp,
        }

    def _hashes(self, item: StoredObject) -> tuple[str, str]:
        """crc32c and md5 as the API writes them (base64, big-endian), remembered until the file changes."""
        import google_crc32c

        key = (str(item.path), item.size, item.modified_ns)
        with self._lock:
            if key in self._sums:
                return self._sums[key]
        crc32c, md5 = 0, hashlib.md5(usedforsecurity=False)
        with item.path.open("rb") as file:
            while block := file.read(1 << 20):
                crc32c = google_crc32c.extend(crc32c, block)
                md5.update(block)
        sums = (base64.b64encode(crc32c.to_bytes(4, "big")).decode(), base64.b64encode(md5.digest()).decode())
        with self._lock:
            if len(self._sums) > 10_000:
                self._sums.clear()
            self._sums[key] = sums
        return sums

    def _list_json(self, request: Request, bucket: str, root_url: str) -> Response:
        query = request.query
        items, prefixes, token = self._list(
            bucket, query, page_size(query.get("maxResults")), read_token(query.get("pageToken"))
        )
        answer = {
            "kind": "storage#objects",
            "items": [self._resource(item, root_url) for item in items],
            "prefixes": prefixes,
            **({"nextPageToken": token} if token else {}),
        }
        return json_response({key: value for key, value in answer.items() if value})

    def _list_xml(self, request: Request, bucket: str) -> Response:
        query = request.query
        start = read_token(query.get("continuation-token"))
        items, prefixes, token = self._list(bucket, query, page_size(query.get("max-keys")), start)
        contents = "".join(
            f"<Contents><Key>{escape(item.name)}</Key>"
            f"<LastModified>{item.modified.isoformat(timespec='milliseconds').replace('+00:00', 'Z')}</LastModified>"
            f'<ETag>"{item.generation}"</ETag><Size>{item.size}</Size></Contents>'
            for item in items
        )
        common = "".join(f"<CommonPrefixes><Prefix>{escape(prefix)}</Prefix></CommonPrefixes>" for prefix in prefixes)
        following = f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
        body = (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://doc.s3.amazonaws.com/2006-03-01">'
            f"<Name>{bucket}</Name><Prefix>{escape(query.get('prefix', ''))}</Prefix>"
            f"<KeyCount>{len(items) + len(prefixes)}</KeyCount><IsTruncated>{str(bool(token)).lower()}</IsTruncated>"
            f"{following}{contents}{common}</ListBucketResult>"
        )
        return Response(body=body.encode(), content_type="application/xml; charset=UTF-8")

    def _list(
        self, bucket: str, query: Mapping[str, str], size: int, start: int
    ) -> tuple[list[StoredObject], list[str], str]:
        """One page of objects and common prefixes in name order, and the token of the next page."""
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        after = query.get("start-after") or ""
        entries: list[str | tuple[str, Path]] = []
        seen: set[str] = set()
        for name, path in self._walk(bucket, prefix):
            if name <= after:
                continue
            cut = name.find(delimiter, len(prefix)) if delimiter else -1
            if cut < 0:
                entries.append((name, path))
            elif (common := name[: cut + len(delimiter)]) not in seen:
                seen.add(common)
                entries.append(common)
        page = entries[start : start + size]
        items = [_stored(bucket, *entry) for entry in page if not isinstance(entry, str)]
        token = write_token(start + size) if start + size < len(entries) else ""
        return items, [entry for entry in page if isinstance(entry, str)], token

    def _walk(self, bucket: str, prefix: str) -> list[tuple[str, Path]]:
        root = self._directory / bucket
        found = []
        for folder, _, names in os.walk(root):
            for name in names:
                path = Path(folder, name)
                key = path.relative_to(root).as_posix()
                if key.startswith(prefix) and not name.endswith(".partial"):
                    found.append((key, path))
        return sorted(found)


def _stored(bucket: str, name: str, path: Path) -> StoredObject:
    status = path.stat()
    return StoredObject(bucket=bucket, name=name, path=path, size=status.st_size, modified_ns=status.st_mtime_ns)


def _parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """(start, length) of the first range of a Range header, the whole object without one; None: not satisfiable."""
    match = _range.fullmatch(header.strip()) if header else None
    if match is None or match.group(0) == "bytes=-":
        return 0, size
    first, last = match.groups()
    if not first:
        length = min(int(last), size)
        return (size - length, length) if length else None
    start = int(first)
    end = min(int(last), size - 1) if last else size - 1
    return (start, end - start + 1) if start <= end else None
