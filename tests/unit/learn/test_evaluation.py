"""Probes with known answers, floors, intervals; the stage refuses labels that an encoder was trained on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from fakes.learning import specs_of, write_campaign

from m3etl.errors import InputError, NothingSelectedError
from m3etl.io.plan import write_plan
from m3etl.learn.evaluation import LabelledFeatures, majority_accuracy, measure, score_probes
from m3etl.learn.features import image_statistics, majority_class, probe_labels, random_convolutions
from m3etl.learn.mpmae import EncoderInput
from m3etl.learn.regression import r2_with_interval, score_regressions
from m3etl.stages.embed import run_embed
from m3etl.stages.evaluate import check_labels, floors, labels_to_probe, run_evaluate
from m3etl.stages.labels import label_column
from m3etl.stages.pretrain import run_pretrain
from m3etl.stages.summary import SilentProgress


def clouds(count: int, classes: int = 3, *, seed: int, distance: float = 4.0) -> LabelledFeatures:
    generator = np.random.default_rng(seed)
    y = np.arange(count) % classes
    centres = np.eye(classes, 8) * distance
    return LabelledFeatures(x=(centres[y] + generator.normal(size=(count, 8))).astype(np.float32), y=y)


def test_separable_classes_are_found_and_noise_is_not():
    parts = {"train": clouds(90, seed=0), "val": clouds(30, seed=1), "test": clouds(60, seed=2)}
    for score in score_probes(parts, seed=0):
        assert score.accuracy > 0.9
        assert score.accuracy_interval[0] <= score.accuracy <= score.accuracy_interval[1]
        assert (score.train_chips, score.test_chips, score.classes) == (120, 60, 3)
        assert (score.selected_on, score.tested_on) == ("val", "test")
    noise = {name: clouds(len(part.y), seed=9, distance=0.0) for name, part in parts.items()}
    shuffled = {
        name: LabelledFeatures(
            x=np.random.default_rng(len(name)).normal(size=part.x.shape).astype(np.float32), y=part.y
        )
        for name, part in noise.items()
    }
    assert all(score.accuracy < 0.6 for score in score_probes(shuffled, seed=0))
    assert majority_accuracy(parts, "test") == pytest.approx(1 / 3)


def test_metrics_by_hand():
    truth, predicted = np.array([0, 0, 0, 1, 2]), np.array([0, 0, 1, 1, 3])
    measured = measure(truth, predicted, seed=0)
    assert measured["accuracy"] == pytest.approx(3 / 5)
    assert measured["macro_f1"] == pytest.approx((0.8 + 2 / 3 + 0) / 3)
    low, high = measured["accuracy_interval"]
    assert 0.0 <= low < 0.6 < high <= 1.0
    assert measure(truth, truth, seed=0)["macro_f1_interval"] == (1.0, 1.0)


def test_without_a_test_split_validation_chips_are_tested_and_that_is_recorded():
    parts = {"train": clouds(60, seed=0), "val": clouds(30, seed=1)}
    for score in score_probes(parts, seed=0):
        assert score.tested_on == "val"
        assert score.selected_on == "5-fold cross-validation of train"
        assert score.train_chips == 60
        assert score.accuracy > 0.9


def test_unknown_labels_are_dropped_and_too_little_is_refused():
    train = clouds(60, seed=0)
    unknown = LabelledFeatures(x=train.x, y=np.where(np.arange(60) < 30, train.y, -1))
    scores = score_probes({"train": unknown, "test": clouds(30, seed=1)}, seed=0)
    assert scores[0].train_chips == 30
    with pytest.raises(NothingSelectedError, match="fewer than two labelled classes"):
        score_probes({"train": LabelledFeatures(x=train.x, y=np.zeros(60, int)), "test": train}, seed=0)
    with pytest.raises(NothingSelectedError, match="no labelled chip in the validation and test"):
        score_probes({"train": train, "test": LabelledFeatures(x=train.x, y=np.full(60, -1))}, seed=0)


def test_majority_class_of_a_chip():
    (worldcover,) = specs_of("worldcover")
    classes = torch.tensor([[3, 3, 7, -1], [-1, -1, -1, 0], [-1, -1, -1, -1]]).view(3, 1, 2, 2)
    assert majority_class(worldcover, classes).tolist() == [3, 0, -1]
    (biome,) = specs_of("biome")
    assert majority_class(biome, torch.tensor([[5], [-1]])).tolist() == [5, -1]
    assert [spec.name for spec in probe_labels(specs_of())] == ["dynamic_world", "worldcover", "biome"]


def test_image_statistics_see_observed_pixels_only():
    x = torch.zeros(1, 2, 2, 2)
    x[0, 0] = torch.tensor([[1.0, 2.0], [3.0, 99.0]])
    observed = torch.ones(1, 2, 2, 2, dtype=torch.bool)
    observed[0, 0, 1, 1] = False
    observed[0, 1] = False
    found = image_statistics(EncoderInput(x, observed, torch.zeros(1, dtype=torch.int64))).view(2, 7)
    assert found[0, :2].tolist() == pytest.approx([2.0, (2 / 3) ** 0.5])
    assert found[0, 2:].tolist() == [1.0, 1.0, 2.0, 3.0, 3.0]
    assert found[1].tolist() == [0.0] * 7


def test_random_convolutions_follow_from_the_seed():
    picture = EncoderInput(torch.randn(5, 12, 8, 8), torch.ones(5, 12, 8, 8, dtype=torch.bool), torch.zeros(5).long())
    one, same, other = (random_convolutions(12, seed=seed)(picture) for seed in (1, 1, 2))
    assert one.shape == (5, 256)
    assert torch.equal(one, same)
    assert not torch.allclose(one, other)


quick = (
    "model.decoder_width=16",
    "data.crop_px=32",
    "data.batch_size=4",
    "trainer.max_steps=2",
    "trainer.cpu_threads=1",
)


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    return write_campaign(
        tmp_path_factory.mktemp("evaluation") / "campaign", splits=("train",) * 15 + ("val",) * 6 + ("test",) * 6
    )


class Sayings(SilentProgress):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def test_each_label_is_probed_on_an_encoder_that_never_saw_it(campaign):
    progress = Sayings()
    summary = run_evaluate(campaign, overrides=quick, progress=progress)
    assert sum("pretraining one with data.leave_out" in text for text in progress.said) == 2
    assert {(row["label"], row["probe"]) for row in summary.facts["probes"]} == {
        (label, probe) for label in ("worldcover", "biome") for probe in ("knn", "linear")
    }
    for row in summary.facts["probes"]:
        assert set(floors) <= set(row)
        assert 0 <= row["accuracy"] <= 1
        assert row["test_chips"] == 6
    biome = next(row for row in summary.facts["probes"] if (row["label"], row["probe"]) == ("biome", "linear"))
    assert biome["image_statistics"] > 0.8
    assert (summary.done, summary.rejected, len(summary.facts["runs"])) == (2, 0, 2)
    report = json.loads((Path(summary.facts["runs"][0]) / "evaluation.json").read_text())
    assert set(report["labels"][0]["scores"]) == {"encoder", *floors}
    again = Sayings()
    assert run_evaluate(campaign, overrides=quick, progress=again).facts["probes"] == summary.facts["probes"]
    assert not any("pretraining" in text for text in again.said)


def test_a_label_the_checkpoint_was_trained_on_is_refused(campaign):
    seen = run_pretrain(
        campaign, overrides=[*quick, "run.name=seen", "run.pictures=0"], progress=SilentProgress()
    ).facts["run"]
    with pytest.raises(InputError, match="trained to predict biome") as caught:
        run_evaluate(campaign, checkpoint=Path(seen), labels=["biome"], progress=SilentProgress())
    assert "data.leave_out=[biome]" in caught.value.hint
    with pytest.raises(InputError, match="trained to predict worldcover, biome"):
        run_evaluate(campaign, checkpoint=Path(seen), progress=SilentProgress())
    half = run_pretrain(
        campaign,
        overrides=[*quick, "run.name=half", "run.pictures=0", "data.leave_out=[biome]"],
        progress=SilentProgress(),
    ).facts["run"]
    summary = run_evaluate(campaign, checkpoint=Path(half), progress=SilentProgress())
    assert {row["label"] for row in summary.facts["probes"]} == {"biome"}
    with pytest.raises(InputError, match="not a label of this data set: moon"):
        run_evaluate(campaign, labels=["moon"], progress=SilentProgress())


def test_embeddings_of_all_chips_lie_in_one_table(campaign, tmp_path):
    run = run_pretrain(
        campaign, overrides=[*quick, "run.name=embed", "run.pictures=0"], progress=SilentProgress()
    ).facts["run"]
    summary = run_embed(campaign, checkpoint=Path(run), progress=SilentProgress())
    path = Path(summary.facts["embeddings"])
    table = pq.read_table(path)
    assert path == Path(run) / "embeddings.parquet"
    assert (table.num_rows, summary.done, summary.rejected) == (27, 27, 0)
    assert table["features"].type.list_size == 320
    assert table["chip_id"][3].as_py() == "32632-640-0003-4956"
    assert set(table["split"].to_pylist()) == {"train", "val", "test"}
    assert np.isfinite(np.stack(table["features"].to_numpy())).all()
    assert "checkpoint" in json.loads(table.schema.metadata[b"m3etl"])
    other = tmp_path / "x.parquet"
    run_embed(campaign, checkpoint=Path(run), output=other, progress=SilentProgress())
    assert pq.read_table(other).equals(table)
    with pytest.raises(InputError, match="cannot write"):
        run_embed(campaign, checkpoint=Path(run), output=tmp_path / "no" / "x.parquet", progress=SilentProgress())


def numbers(count: int, *, seed: int, noise: float = 0.1) -> LabelledFeatures:
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(count, 8)).astype(np.float32)
    y = 3.0 * x[:, 0] - x[:, 1].astype(np.float64) + generator.normal(scale=noise, size=count)
    return LabelledFeatures(x=x, y=y)


def test_a_linear_law_is_regressed_and_chance_is_not():
    parts = {"train": numbers(120, seed=0), "val": numbers(40, seed=1), "test": numbers(60, seed=2)}
    unknown = np.where(np.arange(120) < 10, np.nan, parts["train"].y)
    knn, linear = score_regressions({**parts, "train": LabelledFeatures(x=parts["train"].x, y=unknown)}, seed=0)
    assert (knn.probe, linear.probe) == ("knn", "linear")
    assert linear.r2 > 0.98 > knn.r2 > 0.3
    assert linear.r2_interval[0] < linear.r2 < linear.r2_interval[1] <= 1
    assert linear.rmse == pytest.approx(0.1, rel=0.4)
    assert (linear.train_chips, linear.test_chips, linear.tested_on) == (150, 60, "test")
    chance = {
        name: LabelledFeatures(x=part.x, y=np.random.default_rng(9).permutation(part.y)) for name, part in parts.items()
    }
    assert all(score.r2 < 0.2 for score in score_regressions(chance, seed=0))
    flat = LabelledFeatures(x=parts["test"].x, y=np.ones(60))
    with pytest.raises(NothingSelectedError, match="in the split test"):
        score_regressions({**parts, "test": flat}, seed=0)
    with pytest.raises(NothingSelectedError, match="among the training chips"):
        score_regressions({"train": flat, "test": parts["test"]}, seed=0)


def test_r2_by_hand():
    truth, predicted = np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 2.0])
    r2, (low, high) = r2_with_interval(truth, predicted, seed=0)
    assert r2 == pytest.approx(1 - 1 / 2)
    assert low < 0.5 < high


@pytest.mark.parametrize(
    ("values", "classes", "found"),
    [
        (["oak", " pine", None, "oak", ""], ("oak", "pine"), [0, 1, -1, 0, -1]),
        ([3, 1, 3, 1, 2], ("1", "2", "3"), [2, 0, 2, 0, 1]),
        ([3.0, 1.0, float("nan"), 1.0, 3.0], ("1", "3"), [1, 0, -1, 0, 1]),
        ([True, False, None, True, True], ("False", "True"), [1, 0, -1, 1, 1]),
        (["2019", "2020", "n/a", "2019", None], ("2019", "2020", "n/a"), [0, 1, 2, 0, -1]),
        ([0.5, 1.0, None, 2.0, float("inf")], (), [0.5, 1.0, np.nan, 2.0, np.nan]),
        (["0.5", "1e3", "", None, "7"], (), [0.5, 1000.0, np.nan, np.nan, 7.0]),
    ],
)
def test_columns_of_any_type_become_classes_or_numbers(values, classes, found):
    column = label_column("tree", pd.Series(values, dtype=object))
    assert column.classes == classes
    np.testing.assert_array_equal(column.values, found)
    assert column.labelled == sum(item >= 0 for item in found)


def test_many_whole_numbers_are_regressed_and_many_texts_are_no_classes():
    assert not label_column("people", pd.Series(range(100), dtype=object)).is_classes
    with pytest.raises(InputError, match="1,500 different texts"):
        label_column("owner", pd.Series([f"owner {number}" for number in range(1500)], dtype=object))


def test_columns_of_the_points_are_probed_beside_the_floors(tmp_path):
    splits = ("train",) * 24 + ("val",) * 8 + ("test",) * 8
    campaign = write_campaign(tmp_path / "c", splits=splits)
    write_labels(campaign, splits)
    progress = Sayings()
    summary = run_evaluate(campaign, labels=["kind", "height"], overrides=quick, progress=progress)
    assert [text for text in progress.said if "pretraining" in text] == ["no run is finished: pretraining one"]
    assert [(row["label"], row["probe"]) for row in summary.facts["probes"]] == [("kind", "knn"), ("kind", "linear")]
    assert [(row["label"], row["probe"]) for row in summary.facts["regressions"]] == [
        ("height", "knn"),
        ("height", "linear"),
    ]
    row = summary.facts["probes"][1]
    assert row["test_chips"] == 8
    assert row["image_statistics"] > 0.8, "the label follows from what the pictures show"
    row = summary.facts["regressions"][1]
    assert set(floors) <= set(row)
    assert row["image_statistics"] > 0.5
    assert row["r2"] <= 1
    assert row["rmse"] >= 0
    report = json.loads((Path(summary.facts["runs"][0]) / "evaluation.json").read_text())
    assert {item["label"] for item in report["labels"]} == {"kind", "height"}
    with pytest.raises(InputError, match=r"did you mean height\?"):
        run_evaluate(campaign, labels=["hight"], overrides=quick, progress=progress)
    assert {column.name for column in labels_to_probe(campaign, [])} == {"worldcover", "biome", "kind", "height"}
    with pytest.raises(InputError, match=r"did you mean worldcover\?"):
        check_labels(campaign, ["wordcover"])
    assert check_labels(campaign, ["rare", "kind", "biome"]) is None


def write_labels(campaign, splits) -> None:
    """A plan whose columns follow from the hidden field's level, as the arrays do; `rare` has two labelled chips."""
    count = len(splits)
    kind = [("oak", "pine", "none")[row % 3] for row in range(count)]
    height = [10.0 * (row % 3) + 0.25 for row in range(count)]
    rows = pd.DataFrame(
        {
            "chip_id": [f"32632-640-{row:04d}-4956" for row in range(count)],
            "row": range(count),
            "generation": 0,
            "epsg": 32632,
            "xmin": [500_000.0 + row * 640 for row in range(count)],
            "ymin": 5_000_000.0 - 640,
            "xmax": [500_640.0 + row * 640 for row in range(count)],
            "ymax": 5_000_000.0,
            "lon": 9.0,
            "lat": 50.0,
            "biome": 7,
            "ecoregion": 1,
            "realm": "Palearctic",
            "region": "europe",
            "year": 2019,
            "split": splits,
            "reserve": False,
            "date": "2019-07-01T00:00:00Z",
            "kind": kind,
            "height": height,
            "rare": ["a", "b", *[None] * (count - 2)],
        }
    )
    write_plan(campaign.plan_path, rows.sample(frac=1.0, random_state=0))
