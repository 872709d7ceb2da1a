"""The planet: a deterministic synthetic Earth in real coordinates, served as Earth Engine assets."""
