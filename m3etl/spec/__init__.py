"""Decisions: regions, lattice, sampling, splits, the modality catalogue, jobs. No network, no disk, no ee, no torch."""
