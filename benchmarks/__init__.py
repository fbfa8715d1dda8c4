"""Benchmarks, one module per op: ``run(report)`` fills a report of ours and the peers, side by side, on its device."""
