"""The main job on real input, as `make demo` runs it."""
