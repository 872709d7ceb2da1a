"""`m3etl evaluate`: probes of an encoder on labels it was not trained on, beside floors that need no training."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from m3etl.campaign import Campaign, write_atomically
from m3etl.errors import InputError, NothingSelectedError
from m3etl.io.publication import read_origins
from m3etl.io.store import open_store, read_stats
from m3etl.spec.modality import ArraySpec
from m3etl.spec.spelling import did_you_mean
from m3etl.stages.labels import LabelColumn, label_names, least_labelled, read_labels
from m3etl.stages.pretrain import needs_training_extra, run_pretrain
from m3etl.stages.summary import Progress, Summary

if TYPE_CHECKING:
    from m3etl.learn.checkpoint import Checkpoint
    from m3etl.learn.evaluation import LabelledFeatures
    from m3etl.learn.features import ChipFeatures

floors = ("image_statistics", "random_convolutions", "untrained_encoder")
splits = ("train", "val", "test")
short_steps = 100  # of the quick preset, for encoders that are trained to be probed only

Target = ArraySpec | LabelColumn


def run_evaluate(
    campaign: Campaign,
    *,
    checkpoint: Path | None = None,
    labels: Sequence[str] = (),
    overrides: Sequence[str] = (),
    progress: Progress,
) -> Summary:
    """Probe labels and write evaluation.json into the run's directory. A label is an array with a class table or a
    column that the user's points brought; by default all such arrays, and all columns with enough labelled chips.

    With `checkpoint`, labels whose family it was trained to predict are refused (InputError) or, if not named, left
    out. Without, each label is probed on the longest finished run that left its family out; where there is none, one is
    pretrained first (with `overrides`), and that is said. Facts: `probes`, a row per label and probe, beside floors;
    `regressions`, the same for columns of numbers.
    """
    needs_training_extra()
    started = time.monotonic()
    wanted = labels_to_probe(campaign, labels)
    if checkpoint is not None:
        plan = _plan_of_checkpoint(checkpoint, wanted, named=bool(labels))
    else:
        plan = _plan_of_runs(campaign, wanted, overrides, progress)
    rows: list[dict[str, Any]] = []
    regressions: list[dict[str, Any]] = []
    errors: dict[str, int] = {}
    parts = _features_by_split(campaign, plan, progress)
    for number, (found, specs) in enumerate(plan):
        reports: list[dict[str, Any]] = []
        for name, outcome in _probe(parts, number, found, specs).items():
            if isinstance(outcome, str):
                errors[f"{name}: {outcome}"] = 1
                continue
            reports.append({"label": name, **outcome})
            if "majority" in outcome:
                rows.extend(_table_rows(name, outcome))
            else:
                regressions.extend(_regression_rows(name, outcome))
        report = {"checkpoint": str(found.path), "dataset_id": found.state["dataset_id"], "labels": reports}
        write_atomically(found.path.parents[1] / "evaluation.json", (json.dumps(report, indent=1) + "\n").encode())
    facts = {
        "runs": [str(found.path.parents[1]) for found, _ in plan],
        "note": _note(campaign),
        "probes": rows,
        **({"regressions": regressions} if regressions else {}),
    }
    return Summary(
        stage="evaluate",
        done=(len(rows) + len(regressions)) // 2,
        rejected=len(errors),
        seconds=time.monotonic() - started,
        errors=errors,
        facts=facts,
    )


def check_labels(campaign: Campaign, labels: Sequence[str]) -> None:
    """InputError where a name is neither an array that this m3etl knows nor a column of the plan, before any stage."""
    from m3etl.spec.catalog import known_arrays

    known = [*known_arrays(), *label_names(campaign)]
    unknown = [name for name in labels if name not in known]
    if unknown:
        classes = [spec.name for spec in known_arrays().values() if spec.classes]
        raise InputError(
            f"not a label of this data set: {', '.join(unknown)}{did_you_mean(unknown, known)}",
            hint=f"Labels: {', '.join(dict.fromkeys([*classes, *label_names(campaign)]))}.",
        )


def labels_to_probe(campaign: Campaign, labels: Sequence[str]) -> tuple[Target, ...]:
    """The named arrays and columns of the plan, or all arrays with a class table and all columns with enough labels;
    InputError names what cannot be probed.
    """
    from m3etl.learn.features import probe_labels

    if not campaign.store_path.exists() or not campaign.stats_path.exists():
        raise NothingSelectedError(
            f"there are no normalised chips in {campaign.root}", hint="Run `m3etl normalize` first."
        )
    store = open_store(campaign.store_path)
    arrays = {spec.name: spec for spec in probe_labels(tuple(store.specs.values()))}
    columns = [name for name in label_names(campaign) if name not in store.specs]
    known = [*arrays, *columns]
    unknown = [name for name in labels if name not in known]
    if unknown or not known:
        raise InputError(
            f"not a label of this data set: {', '.join(unknown) or 'there is none'}{did_you_mean(unknown, known)}",
            hint=f"Labels: {', '.join(known) or 'none; export dynamic_world, worldcover or biome'}.",
        )
    wanted = [spec for name, spec in arrays.items() if name in labels or not labels]
    read = read_labels(campaign, [name for name in columns if name in labels or not labels], len(store.chip_ids))
    return (*wanted, *(column for column in read.values() if labels or column.labelled >= least_labelled))


def is_unseen(checkpoint: Checkpoint, spec: Target) -> bool:
    """Whether neither the label nor another array of its family was a pretext target of the checkpoint."""
    family = spec.label_family
    return spec.name not in checkpoint.targets and (not family or family not in checkpoint.target_families)


def _plan_of_checkpoint(path: Path, wanted: Sequence[Target], *, named: bool) -> list[tuple[Checkpoint, list[Target]]]:
    from m3etl.learn.checkpoint import read_checkpoint

    checkpoint = read_checkpoint(path)
    unseen = [spec for spec in wanted if is_unseen(checkpoint, spec)]
    seen = [spec for spec in wanted if not is_unseen(checkpoint, spec)]
    if seen and (named or not unseen):
        families = sorted({spec.label_family or spec.name for spec in seen})
        raise InputError(
            f"{checkpoint.path} was trained to predict {', '.join(spec.name for spec in seen)} or a derivative: "
            "a probe of it would measure nothing",
            hint=f"Pretrain one without: `m3etl pretrain data.leave_out=[{','.join(families)}]`; or drop --checkpoint.",
        )
    return [(checkpoint, unseen)]


def _plan_of_runs(
    campaign: Campaign, wanted: Sequence[Target], overrides: Sequence[str], progress: Progress
) -> list[tuple[Checkpoint, list[Target]]]:
    from m3etl.learn.checkpoint import find_runs, read_checkpoint

    dataset_id = read_stats(campaign.stats_path).get("dataset_id", "")
    chosen: dict[Path, tuple[Checkpoint, list[Target]]] = {}
    for family in dict.fromkeys(map(_family, wanted)):
        specs = [spec for spec in wanted if _family(spec) == family]
        finished = [
            run
            for run in find_runs(campaign.runs_path)
            if run.state["finished"]
            and run.state["dataset_id"] == dataset_id
            and all(is_unseen(run, spec) for spec in specs)
        ]
        if not finished:
            without = [f"data.leave_out=[{family}]"] if family else []
            reason = f"no finished run left {family} out" if family else "no run is finished"
            progress.say(f"{reason}: pretraining one{' with ' if without else ''}{''.join(without)}")
            options = [*_length(overrides), "run.pictures=0", *overrides, *without]
            summary = run_pretrain(campaign, overrides=options, progress=progress)
            finished = [read_checkpoint(Path(summary.facts["run"]))]
        chosen.setdefault(finished[0].path, (finished[0], []))[1].extend(specs)
    return list(chosen.values())


def _family(spec: Target) -> str:
    """What must be left out to probe it: nothing for a column of the points, which no encoder ever sees."""
    return spec.label_family or spec.name if isinstance(spec, ArraySpec) else ""


def _length(overrides: Sequence[str]) -> list[str]:
    """A short training where the quick preset is used and no other length is asked for."""
    import torch

    from m3etl.learn.settings import preset_of

    preset = preset_of(overrides) or ("paper" if torch.cuda.is_available() else "quick")
    asked = any(text.startswith(("trainer.max_steps=", "trainer.max_epochs=")) for text in overrides)
    return [f"trainer.max_steps={short_steps}"] if preset == "quick" and not asked else []


def _probe(
    parts: Mapping[str, ChipFeatures], number: int, checkpoint: Checkpoint, specs: Sequence[Target]
) -> dict[str, dict[str, Any] | str]:
    """For each label the scores of an encoder and of the floors, or the reason why it cannot be probed."""
    from m3etl.learn.evaluation import LabelledFeatures

    sources = {"encoder": f"encoder {number}", **{floor: floor for floor in floors}}
    outcomes: dict[str, dict[str, Any] | str] = {}
    for spec in specs:
        by_features = {
            kind: {
                split: LabelledFeatures(x=part.features[source], y=_labels_of(spec, part))
                for split, part in parts.items()
            }
            for kind, source in sources.items()
        }
        seed = checkpoint.config.run.seed
        is_classes = isinstance(spec, ArraySpec) or spec.is_classes
        try:
            outcomes[spec.name] = _scored(by_features, seed=seed) if is_classes else _regressed(by_features, seed=seed)
        except NothingSelectedError as error:
            outcomes[spec.name] = error.message
    return outcomes


def _features_by_split(
    campaign: Campaign, plan: Sequence[tuple[Checkpoint, Sequence[Target]]], progress: Progress
) -> dict[str, ChipFeatures]:
    """Features of all encoders of the plan (`encoder 0` ...) and of the floors, and all labels, in one pass."""
    import torch

    from m3etl.compute.normalize import Normalizer
    from m3etl.learn.checkpoint import load_encoder
    from m3etl.learn.encoder import build_encoder, initialise
    from m3etl.learn.features import (
        encoder_features,
        image_statistics,
        joined,
        random_convolutions,
        read_features,
    )
    from m3etl.learn.mpmae import input_bands, input_levels

    device = "cuda" if torch.cuda.is_available() else "cpu"
    targets = (spec for _, specs in plan for spec in specs)
    labels = list({spec.name: spec for spec in targets if isinstance(spec, ArraySpec)}.values())
    pretrained = [load_encoder(checkpoint.path) for checkpoint, _ in plan]
    first = plan[0][0]
    seed, model = first.config.run.seed, first.config.model
    untrained = build_encoder(model.size, bands=len(input_bands), patch_px=model.patch_px, levels=len(input_levels))
    initialise(untrained, torch.Generator().manual_seed(seed))
    extractors = {
        **{f"encoder {i}": encoder_features(item.encoder.to(device)) for i, item in enumerate(pretrained)},
        "image_statistics": image_statistics,
        "random_convolutions": random_convolutions(len(input_bands), seed=seed),
        "untrained_encoder": encoder_features(untrained.to(device).eval()),
    }
    normalizer = Normalizer.from_stats(first.stats, [*pretrained[0].specs.values(), *labels])
    progress.start("features", None)
    found: dict[str, ChipFeatures] = {}
    for split in splits:
        try:
            parts = read_features(
                campaign.root,
                normalizer=normalizer,
                extractors=extractors,
                labels=labels,
                split=split,
                device=device,
                report=progress.advance,
            )
            found[split] = joined(list(parts))
        except NothingSelectedError as error:
            progress.say(f"no chips to probe in split {split}: {error.message}")
    progress.finish()
    return found


def _labels_of(spec: Target, part: ChipFeatures) -> NDArray[Any]:
    return part.labels[spec.name] if isinstance(spec, ArraySpec) else spec.values[part.rows]


def _regressed(by_features: Mapping[str, Mapping[str, LabelledFeatures]], *, seed: int) -> dict[str, Any]:
    from m3etl.learn.regression import score_regressions

    scores = {kind: score_regressions(parts, seed=seed) for kind, parts in by_features.items()}
    return {"scores": {kind: [asdict(score) for score in found] for kind, found in scores.items()}}


def _scored(by_features: Mapping[str, Mapping[str, LabelledFeatures]], *, seed: int) -> dict[str, Any]:
    from m3etl.learn.evaluation import majority_accuracy, score_probes

    scores = {kind: score_probes(parts, seed=seed) for kind, parts in by_features.items()}
    tested_on = scores["encoder"][0].tested_on
    return {
        "majority": majority_accuracy(by_features["encoder"], tested_on),
        "scores": {kind: [asdict(score) for score in found] for kind, found in scores.items()},
    }


def _table_rows(label: str, outcome: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per probe: the encoder's score, its interval, and the floors."""
    rows = []
    for number, score in enumerate(outcome["scores"]["encoder"]):
        low, high = score["accuracy_interval"]
        rows.append(
            {
                "label": label,
                "probe": score["probe"],
                "test_chips": score["test_chips"],
                "accuracy": round(score["accuracy"], 3),
                "95 %": f"{low:.2f}-{high:.2f}",
                "macro_f1": round(score["macro_f1"], 3),
                **{kind: round(outcome["scores"][kind][number]["accuracy"], 3) for kind in floors},
                "majority": round(outcome["majority"], 3),
            }
        )
    return rows


def _regression_rows(label: str, outcome: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The same for a column of numbers: R2, its interval, the error in the column's units, and the floors' R2."""
    rows = []
    for number, score in enumerate(outcome["scores"]["encoder"]):
        low, high = score["r2_interval"]
        rows.append(
            {
                "label": label,
                "probe": score["probe"],
                "test_chips": score["test_chips"],
                "r2": round(score["r2"], 3),
                "95 %": f"{low:.2f} to {high:.2f}",
                "rmse": score["rmse"],
                **{kind: round(outcome["scores"][kind][number]["r2"], 3) for kind in floors},
            }
        )
    return rows


def _note(campaign: Campaign) -> str:
    if campaign.provenance_path.is_dir() and read_origins(campaign, {}).synthetic:
        return "made-up chips (the embedded planet): a sanity check, no result"
    return "accuracy over all chips of the test split"
