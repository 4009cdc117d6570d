"""Volumes: what a dataset is to a virtual machine, a row of bytes of a fixed size."""
