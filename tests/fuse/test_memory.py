"""The memory allocator of a process that serves a mount."""

import ctypes
import subprocess
import sys

import pytest

from tests.fuse.mounting import ROOT

MEASURE = """
import resource
from fuse.memory import keep_large_buffers
assert keep_large_buffers()
bytes(1 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    held = [bytes([1]) * (1 << 20) for _ in range(8)]
    del held
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_large_buffers_are_faulted_in_once_and_not_each_time() -> None:
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True, cwd=ROOT)
    pages_of_one_round = 8 * 256
    assert int(done.stdout) < 3 * pages_of_one_round
