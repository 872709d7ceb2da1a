"""Measurements: every figure is a ratio to a named rival or limit, or an absolute one with its machine."""
