"""`doctor`: what works on this machine, and what to do about what does not. Offline it answers within seconds."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from m3etl import __version__
from m3etl.campaign import CampaignConfig, EarthEngineConfig
from m3etl.errors import M3etlError
from m3etl.io import machine
from m3etl.io.workers import usable_cores
from m3etl.stages.summary import Summary

discovery_url = "https://earthengine.googleapis.com/$discovery/rest?version=v1"
probe_timeout_s = 2.0
bucket_timeout_s = 8.0
little_space_bytes = 5 * 10**9
no_space_bytes = 200 * 10**6

# Extra -> the distributions it brings and what they are for.
extras = {
    "ee": (("earthengine-api",), "sample and export"),
    "train": (("torch", "lightning", "hydra-core", "safetensors", "scikit-learn"), "pretrain, evaluate and embed"),
    "hub": (("huggingface_hub",), "upload-hf"),
    "maps": (("folium", "geemap"), "the interactive map of preview"),
    "remote": (("obstore", "fsspec"), "reading stores by URL"),
    "insar": (("h5py",), "interferograms"),
}


class State(StrEnum):
    """ok: works; warn: works without it, or only some commands need it; fail: commands will not work."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of the result. advice: what to do, "" where nothing is to be done."""

    check: str
    state: State
    found: str
    advice: str = ""


def run_doctor(root: Path, *, config: CampaignConfig, source: EarthEngineConfig, bucket: str = "") -> Summary:
    """All checks as `facts["checks"]`; `failed` counts what commands need and what does not work.

    bucket: where batch exports are to go, as the campaign has it by default. A login is needed where a project, another
    service or a bucket is named; without any, the embedded Earth Engine works.
    """
    started = time.monotonic()
    checks = list(_checks(root, config, source, bucket))
    states = [item.state for item in checks]
    return Summary(
        stage="doctor",
        done=states.count(State.OK),
        skipped=states.count(State.WARN),
        failed=states.count(State.FAIL),
        seconds=time.monotonic() - started,
        facts={"checks": [{**asdict(item), "state": str(item.state)} for item in checks]},
    )


def _checks(root: Path, config: CampaignConfig, source: EarthEngineConfig, bucket: str) -> Iterator[Check]:
    yield Check(
        check="m3etl", state=State.OK, found=f"{__version__}, Python {platform.python_version()} on {sys.platform}"
    )
    yield from (_check_extra(name) for name in extras)
    recorded = config.earthengine
    url = source.url or recorded.url
    bucket = bucket or config.export.bucket
    if url == "embedded":
        yield from _check_embedded(source.archive or recorded.archive, bucket)
    else:
        yield from _check_service(url, source.project or recorded.project)
        if bucket:
            yield _check_bucket(bucket, url)
    yield _check_hub()
    yield _check_directory(root)
    yield _check_space(root)
    yield _check_device()


def _check_extra(name: str) -> Check:
    packages, purpose = extras[name]
    versions = {package: machine.package_version(package) for package in packages}
    absent = [package for package, version in versions.items() if not version]
    if not absent:
        found = ", ".join(f"{package} {version}" for package, version in versions.items())
        return Check(check=f"packages for {purpose}", state=State.OK, found=found)
    return Check(
        check=f"packages for {purpose}",
        state=State.WARN,
        found=f"not installed: {', '.join(absent)}",
        advice=f'pip install "m3etl[{name}]"',
    )


def _check_embedded(archive: str, bucket: str) -> Iterator[Check]:
    """Start the embedded Earth Engine for a moment and ask it something."""
    from m3etl.emulator.process import start_embedded

    try:
        with start_embedded(state_dir=None, archive=Path(archive) if archive else None) as server:
            answer = machine.probe(f"{server.url}/$discovery/rest?version=v1", timeout_s=probe_timeout_s)
            state = State.OK if answer.status == 200 else State.FAIL
            over = f" with the archive {archive}" if archive else ""
            found = f"embedded{over}, answers {answer.status or answer.reason}"
            yield Check(check="Earth Engine", state=state, found=found)
            if bucket:
                yield _check_bucket(bucket, server.url)
    except M3etlError as error:
        yield Check(check="Earth Engine", state=State.FAIL, found=error.message, advice=error.hint)


def _check_bucket(bucket: str, url: str) -> Check:
    """List, write and delete there, with the login that exports have."""
    from m3etl.io.earthengine import is_loopback
    from m3etl.io.objects import parse_bucket, try_bucket

    name = "bucket for batch exports"
    try:
        place = parse_bucket(bucket)
        if not (url and is_loopback(url)) and not machine.earthengine_login():
            advice = "run `earthengine authenticate`; then run doctor again"
            return Check(check=name, state=State.FAIL, found=f"{place.url} is not checked: no login", advice=advice)
        try_bucket(place, url=url, deadline_s=bucket_timeout_s)
    except M3etlError as error:
        return Check(check=name, state=State.FAIL, found=error.message, advice=error.hint)
    return Check(check=name, state=State.OK, found=f"{place.url} can be listed, written and cleaned")


def _check_service(url: str, project: str) -> Iterator[Check]:
    url = _without_login(url)
    where = url or "the real service"
    address = f"{url.rstrip('/')}/$discovery/rest?version=v1" if url else discovery_url
    answer = machine.probe(address, timeout_s=probe_timeout_s)
    if answer.status:
        yield Check(check="Earth Engine", state=State.OK, found=f"{where} answers ({answer.status})")
    else:
        yield Check(
            check="Earth Engine",
            state=State.FAIL if url else State.WARN,
            found=f"{where} cannot be reached: {answer.reason}",
            advice="check the address" if url else "check the network or proxy, or use --ee-url embedded",
        )
    if url.startswith(("http://127.", "http://localhost", "http://[::1]")):
        return
    login = machine.earthengine_login()
    is_needed = bool(url or project)
    yield Check(
        check="Earth Engine login",
        state=State.OK if login else State.FAIL if is_needed else State.WARN,
        found=f"found: {login}" if login else "none",
        advice="" if login else "run `earthengine authenticate`, or use --ee-url embedded",
    )
    yield Check(
        check="Earth Engine project",
        state=State.OK if project else State.WARN,
        found=project or "none named",
        advice=""
        if project
        else "--ee-project PROJECT or M3ETL_EE_PROJECT; register it at code.earthengine.google.com",
    )


def _without_login(url: str) -> str:
    """The address without a user name and password that may stand in it."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _check_hub() -> Check:
    if not machine.package_version("huggingface_hub"):
        return Check(
            check="Hugging Face login", state=State.WARN, found="not checked", advice='pip install "m3etl[hub]"'
        )
    if machine.hub_login():
        return Check(check="Hugging Face login", state=State.OK, found="a token is there")
    return Check(
        check="Hugging Face login",
        state=State.WARN,
        found="none (upload-hf needs one)",
        advice="run `hf auth login`",
    )


def _check_directory(root: Path) -> Check:
    problem = machine.write_problem(root)
    if problem:
        return Check(
            check="campaign directory",
            state=State.FAIL,
            found=f"{root.resolve()} cannot be written: {problem}",
            advice="use another directory with -C DIR",
        )
    kind = "a campaign" if (root / "campaign.toml").is_file() else "no campaign yet"
    return Check(check="campaign directory", state=State.OK, found=f"{root.resolve()} ({kind})")


def _check_space(root: Path) -> Check:
    free = machine.free_bytes(root)
    state = State.FAIL if free < no_space_bytes else State.WARN if free < little_space_bytes else State.OK
    return Check(
        check="disk space",
        state=state,
        found=f"{free / 1e9:.1f} GB free",
        advice="" if state is State.OK else "free some space: 1,000 chips of 128 px take about 1 GB",
    )


def _check_device() -> Check:
    cores = usable_cores()
    name = machine.accelerator() if machine.package_version("torch") else ""
    if name:
        return Check(check="device", state=State.OK, found=f"cuda: {name}, {cores} CPU cores")
    return Check(check="device", state=State.OK, found=f"cpu with {cores} cores, no CUDA device")
