"""Benchmarks: what the promises on speed, space and start-up are measured with. `python -m bench --help`."""
