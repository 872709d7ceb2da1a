"""Every failure that people meet has one kind."""

from __future__ import annotations

import pytest

from m3etl.io.outcomes import Kind, classify, reactions, retry_after

rows = [
    (
        429,
        "Too Many Requests: Request was rejected because the request rate or concurrency limit was exceeded.",
        Kind.RATE,
    ),
    (429, "Quota exceeded for quota metric 'Number of read requests' and limit 'x per minute per user'", Kind.RATE),
    (
        429,
        "Quota exceeded for quota metric 'EECU time' and limit 'earthengine.googleapis.com/daily_eecu_usage_time'",
        Kind.QUOTA,
    ),
    (400, "Too many concurrent aggregations.", Kind.RATE),
    (403, "User rate limit exceeded (rate limit)", Kind.RATE),
    (503, "Earth Engine capacity exceeded.", Kind.CAPACITY),
    (500, "An internal error has occurred (request 1a2b).", Kind.TRANSIENT),
    (400, "An internal error has occurred (request 1a2b).", Kind.TRANSIENT),
    (502, "<html>bad gateway</html>", Kind.TRANSIENT),
    (504, "Ok", Kind.TRANSIENT),
    (408, "timeout", Kind.TRANSIENT),
    (400, "Computation timed out.", Kind.TOO_LARGE),
    (400, "User memory limit exceeded.", Kind.TOO_LARGE),
    (400, "Total request size (50331649 bytes) must be less than or equal to 50331648 bytes.", Kind.TOO_LARGE),
    (400, "Pixel grid dimensions (40000x1) must be less than or equal to 32768.", Kind.TOO_LARGE),
    (400, "Reprojection output too large (20000x20000 pixels).", Kind.TOO_LARGE),
    (400, "Collection query aborted after accumulating over 5000 elements.", Kind.TOO_LARGE),
    (413, "Request payload size exceeds the limit: 10485760 bytes.", Kind.TOO_LARGE),
    (400, "Image.select: Band pattern 'B1' was applied to an Image with no bands.", Kind.NO_DATA),
    (400, "Element.get: Parameter 'object' is required and may not be null.", Kind.NO_DATA),
    (400, "Unknown algorithm Image.foo", Kind.DETERMINISTIC),
    (404, "Project not found", Kind.DETERMINISTIC),
    (401, "Request had invalid authentication credentials.", Kind.AUTH),
    (403, "Permission denied", Kind.AUTH),
]


@pytest.mark.parametrize(("status", "message", "kind"), rows)
def test_kinds(status, message, kind):
    failure = classify(status, message)
    assert failure.kind is kind
    assert failure.status == status
    assert failure.message


@pytest.mark.parametrize("status", [400, 403, 404])
@pytest.mark.parametrize("prefix", ["", "projects/earthengine-public/assets/"])
def test_a_vanished_image_is_named(status, prefix):
    message = f"Image.load: Image asset '{prefix}COPERNICUS/S1_GRD/x' not found (does not exist or no access)."
    failure = classify(status, message)
    assert failure.kind is Kind.SOURCE_CHANGED
    assert failure.asset == "COPERNICUS/S1_GRD/x"


def test_every_kind_but_success_has_a_reaction():
    assert set(reactions) == set(Kind) - {Kind.OK}


def test_retry_after_in_seconds_or_as_a_date():
    assert retry_after({"Retry-After": "2.5"}) == 2.5
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0.0
    assert retry_after({"retry-after": "soon"}) is None
    assert retry_after({}) is None


def test_a_used_up_quota_of_a_minute_waits_for_the_minute():
    message = "Quota exceeded for quota metric 'Number of read requests' and limit 'x per minute per user'"
    assert classify(429, message).retry_after_s == 60.0
    assert classify(429, message, {"Retry-After": "3"}).retry_after_s == 3.0, "what the service says counts"
    assert classify(429, "Too Many Requests").retry_after_s is None
    assert classify(500, message).retry_after_s is None
