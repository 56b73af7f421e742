"""What nefia costs, measured: see docs/performance.md."""
