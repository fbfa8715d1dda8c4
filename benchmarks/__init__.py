"""Benchmarks, one module per op: ``run(quick=..., threads=...)`` gives a report of ours and the peers, side by side."""
