"""A verb of ours that goes on in the background, once it says that it is ready.

    sds mount ──starts──▶ sds mount -f --log LOG
        │                    │ standard output: the one line that says that it is ready
        │◀───────────────────┘ then output and errors go to LOG (`detach`), and we end with 0
        └─ or it ends before that: its line on standard error becomes ours, and its exit code

  BG1  A new process, not a fork: nothing of ours is inherited but the environment and the three standard files; it has
       its own session, / as its directory, and so nothing to do with the terminal.
  BG2  We end when it is ready or has ended. It is never our zombie: we ended, or we waited for it.
  BG3  Interrupted while we wait, it is told to end, and we wait for that.
"""

import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Final

from sds.core.errors import BackendError

PROGRAM: Final = (sys.executable, "-P", "-m", "sds.cli.main")
LOG_BYTES_MAX: Final = 1 << 20


def start_in_background(arguments: Sequence[str]) -> None:
    """BG1, BG2. Arguments with paths are absolute. SystemExit with its exit code if it did not get ready."""
    with tempfile.TemporaryFile() as said:
        interrupts: list[int] = []
        former = signal.signal(signal.SIGINT, lambda number, _: interrupts.append(number))  # BG3: not halfway
        try:
            process = subprocess.Popen(
                [*PROGRAM, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said,
                start_new_session=True, cwd="/",
            )  # fmt: skip
        finally:
            signal.signal(signal.SIGINT, former)
        assert process.stdout is not None
        try:
            if interrupts:
                raise KeyboardInterrupt
            ready = bool(process.stdout.readline())
            code = None if ready else process.wait()
        except BaseException:
            process.terminate()  # BG3
            process.wait()
            raise
        finally:
            process.stdout.close()
            text = _said(said)
            sys.stderr.write(text)
        if code is not None:
            if not text:
                raise BackendError(f"it ended before it was ready (exit {code}): try it in the foreground, with -f")
            raise SystemExit(max(code, 1))
        process.returncode = 0  # it is on its own from here on


def _said(file: BinaryIO) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def detach(log: Path) -> None:
    """BG1, in the process that stays: from here on whatever it says is in the log. One former log is kept."""
    if log.exists() and log.stat().st_size > LOG_BYTES_MAX:
        log.replace(log.with_name(log.name + ".1"))
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    sys.stdout.flush()
    sys.stderr.flush()
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    os.close(descriptor)
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING, force=True)
