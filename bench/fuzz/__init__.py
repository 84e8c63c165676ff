"""Fuzz targets that follow coverage; see `bench.fuzz.features`."""
