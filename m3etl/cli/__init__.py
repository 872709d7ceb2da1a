"""Thin Click commands over `m3etl.stages`."""
