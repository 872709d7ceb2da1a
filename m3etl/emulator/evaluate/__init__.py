"""The evaluator of the embedded Earth Engine: expression graphs in, JSON or pixels out."""

from m3etl.emulator.evaluate.encode import asset_json, image_asset
from m3etl.emulator.evaluate.limits import Limits, Usage
from m3etl.emulator.evaluate.requests import Evaluator, FeatureRows, ImageShape

__all__ = ["Evaluator", "FeatureRows", "ImageShape", "Limits", "Usage", "asset_json", "image_asset"]
