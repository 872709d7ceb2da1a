"""The edges: the only place that touches the network, the disk, Earth Engine and Zarr."""
