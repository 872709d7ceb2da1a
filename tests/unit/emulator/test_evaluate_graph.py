"""Expression graphs: every kind of node, sharing, functions, depth, and the check of calls against the signatures."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from m3etl.emulator import signatures
from m3etl.emulator.evaluate import Evaluator, calls
from m3etl.emulator.model import ServiceError
from tests.fakes.ee_in_process import ee
from tests.fakes.known_assets import KnownAssets
from tests.unit.emulator.evaluating import Session, utm_grid


def constant(value: Any) -> dict[str, Any]:
    return {"constantValue": value}


def invoke(name: str, **arguments: Any) -> dict[str, Any]:
    return {"functionInvocationValue": {"functionName": name, "arguments": arguments}}


def run(values: dict[str, Any], result: str = "0") -> Any:
    return Evaluator(KnownAssets()).value({"result": result, "values": values})


def error_of(values: dict[str, Any]) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        run(values)
    return caught.value


def test_every_kind_of_node() -> None:
    values = {
        "0": {
            "arrayValue": {
                "values": [{"valueReference": "1"}, {"integerValue": "9007199254740993"}, constant([1, "a"])]
            }
        },
        "1": {"dictionaryValue": {"values": {"x": invoke("Number.add", left=constant(1), right=constant(2))}}},
    }
    assert run(values) == [{"x": 3}, 9007199254740993, [1, "a"]]


def test_a_function_sees_its_arguments_and_the_ones_around_it(session: Session) -> None:
    nested = ee.List([1, 2]).map(lambda x: ee.List([10, 20]).map(lambda y: ee.Number(x).add(y)))
    assert nested.getInfo() == [[11, 21], [12, 22]]


def test_a_shared_node_is_computed_once(session: Session) -> None:
    collection = ee.ImageCollection("S2").filterDate("2020-06-01", "2020-07-01")
    shared = collection.size()
    assert shared.add(shared).add(shared).getInfo() == 12
    assert len(session.assets.s2.queries) == 1


def test_a_node_outside_of_a_function_is_computed_once(session: Session) -> None:
    size = ee.ImageCollection("S2").size()
    assert ee.List.sequence(1, 50).map(lambda x: ee.Number(x).add(size)).length().getInfo() == 50
    assert len(session.assets.s2.queries) == 1


def test_only_the_chosen_branch_of_if_is_evaluated(session: Session) -> None:
    failing = ee.Image("missing").bandNames()
    assert ee.Algorithms.If(0, failing, "else").getInfo() == "else"
    assert ee.Algorithms.If(ee.List([]), failing, 2).getInfo() == 2
    assert ee.Algorithms.If("text", 1, failing).getInfo() == 1


def test_a_graph_of_any_depth_is_evaluated() -> None:
    depth = 5000
    values: dict[str, Any] = {"0": constant(0)}
    for index in range(1, depth + 1):
        values[str(index)] = invoke("Number.add", left={"valueReference": str(index - 1)}, right=constant(1))
    assert run(values, str(depth)) == depth


def test_deep_inlined_nodes_are_evaluated() -> None:
    node = constant(0)
    for _ in range(3000):
        node = invoke("Number.add", left=node, right=constant(1))
    assert run({"0": node}) == 3000


def test_an_image_of_any_depth_is_computed(session: Session) -> None:
    values: dict[str, Any] = {
        "0": invoke("Image.constant", value=constant(0)),
        "one": invoke("Image.constant", value=constant(1)),
    }
    for index in range(1, 2001):
        values[str(index)] = invoke(
            "Image.add", image1={"valueReference": str(index - 1)}, image2={"valueReference": "one"}
        )
    raster = session.evaluator.pixels({"result": "2000", "values": values}, grid=utm_grid(width=2, height=2))
    assert raster.bands["constant"].tolist() == [[2000, 2000], [2000, 2000]]


def test_iterate_folds_in_order(session: Session) -> None:
    folded = ee.List([1, 2, 3]).iterate(lambda item, total: ee.Number(item).add(ee.Number(total).multiply(10)), 0)
    assert folded.getInfo() == 123


def test_a_named_function_can_be_mapped() -> None:
    values = {
        "0": invoke("List.map", list=constant([1, -2]), baseAlgorithm={"valueReference": "1"}),
        "1": {"functionDefinitionValue": {"argumentNames": ["x"], "body": "2"}},
        "2": invoke("Number.abs", input={"argumentReference": "x"}),
    }
    assert run(values) == [1, 2]


def test_broken_graphs_are_named() -> None:
    assert "not defined" in error_of({"0": {"valueReference": "9"}}).message
    assert "cyclic" in error_of({"0": {"valueReference": "1"}, "1": {"valueReference": "0"}}).message
    assert "no known kind" in error_of({"0": {"someValue": 1}}).message
    assert "outside its function" in error_of({"0": {"argumentReference": "x"}}).message
    assert "no result" in error_of({"1": constant(1)}).message


def test_references_from_several_places_are_no_cycle() -> None:
    values = {
        "0": {"arrayValue": {"values": [{"valueReference": "1"}, {"valueReference": "2"}]}},
        "1": {"arrayValue": {"values": [{"valueReference": "2"}, {"valueReference": "3"}]}},
        "2": {"arrayValue": {"values": [{"valueReference": "3"}]}},
        "3": constant("leaf"),
    }
    assert run(values) == [[["leaf"], "leaf"], ["leaf"]]


def test_a_call_is_checked_against_the_signature() -> None:
    error = error_of({"0": invoke("Image.select", bandSelectors=constant(["B2"]))})
    assert (error.code, error.status) == (400, "INVALID_ARGUMENT")
    assert error.message == "Image.select: Parameter 'input' is required and may not be null."
    error = error_of({"0": invoke("Image.select", input=constant("S2/i1"), bandSelectors=constant(["B2"]))})
    assert error.message == (
        "Image.select, argument 'input': Invalid type.\nExpected type: Image.\nActual type: String."
    )
    error = error_of({"0": invoke("Number.abs", input=constant(1), wrong=constant(1))})
    assert "Unrecognized argument(s): wrong" in error.message
    error = error_of({"0": invoke("Collection.filter", collection=constant(1), filter=constant(1))})
    assert "Expected type: FeatureCollection" in error.message


def test_known_and_unknown_algorithms_are_told_apart() -> None:
    known = error_of({"0": invoke("Classifier.smileCart")})
    assert known.code == 400
    assert "Classifier.smileCart" in known.message
    assert "not evaluated" in known.message
    unknown = error_of({"0": invoke("Image.doesNotExist")})
    assert "Unknown algorithm: 'Image.doesNotExist'" in unknown.message


def test_defaults_of_the_signature_are_applied() -> None:
    assert run({"0": invoke("List.sequence", start=constant(1), end=constant(3))}) == [1, 2, 3]
    assert run({"0": invoke("Dictionary.combine", first=constant({"a": 1}), second=constant({"a": 2}))}) == {"a": 2}


def test_every_implementation_is_in_the_signature_list_with_as_many_arguments() -> None:
    known = calls.signatures()
    assert set(calls.REGISTRY) <= set(known)
    for name, implementation in calls.REGISTRY.items():
        parameters = list(inspect.signature(implementation).parameters.values())
        if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
            assert len(known[name].parameters) >= len(parameters) - 2, name
        else:
            assert len(known[name].parameters) == len(parameters) - 1, name


def test_the_own_table_equals_the_clients_list() -> None:
    own = {entry["name"]: entry for entry in signatures.own_signatures()}
    client = {entry["name"]: entry for entry in signatures.load_signatures()}
    assert set(own) == {signatures.PREFIX + name for name in calls.REGISTRY}
    for name, entry in own.items():
        assert signatures.format_signature(entry) == signatures.format_signature(client[name])


MMEARTH = """
Collection.filter Image.select Image.constant Image.where Image.eq Image.clip Collection.map Image.addBands
ImageCollection.load Filter.dateRangeContains DateRange Image.float GeometryConstructors.Polygon Image.reproject
Image.date Element.set Number.abs Filter.intersects Feature Filter.contains Geometry.buffer Image.resample List.get
Collection.size Filter.lessThan Image.bandNames Image.rename Collection.toList Filter.equals Collection.first
Image.load Image.projection ImageCollection.reduce Date.difference Date Collection.limit ImageCollection.toBands
reduce.mode Terrain.slope Geometry.coordinates Geometry.centroid ImageCollection.fromImages Reducer.mean Reducer.min
Reducer.max Reducer.sum Date.format Image.reduceRegion Image.clipToBoundsAndScale Image.setDefaultProjection Projection
Collection.loadTable FeatureCollection.randomPoints Feature.buffer Feature.bounds Projection.atScale Image.mask
Image.updateMask Image.unmask Image.remap Image.bitwiseAnd Image.normalizedDifference Image.multiply Image.add
Image.divide Image.reduce Image.reduceResolution Element.toDictionary Image.focal_mode Image.pixelLonLat Image.slice
Reducer.median Reducer.percentile Reducer.combine Reducer.first Reducer.stdDev Reducer.mode Reducer.count
ImageCollection.mosaic ImageCollection.qualityMosaic ImageCollection.merge ImageCollection.getRegion
Filter.calendarRange Filter.notNull Filter.listContains Filter.or Join.saveFirst Join.apply Date.advance Date.millis
Element.get Dictionary.get List.map List.slice Collection.iterate Collection.reduceColumns Collection.distinct
AggregateFeatureCollection.array Terrain.products Image.sampleRectangle If Image.changeProj Image.pixelArea
Image.pixelCoordinates Image.parseExpression Image.linkCollection Filter.not Filter.and
"""


@pytest.mark.parametrize("name", MMEARTH.split())
def test_what_mmearth_like_programs_call_is_evaluated(name: str) -> None:
    assert name in calls.REGISTRY
