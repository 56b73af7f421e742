"""Microbenchmarks of single parts, for pytest-benchmark: `nox -s benchmarks`."""
