"""`sds`: reads the command line, runs the verb, turns what went wrong into one line and an exit code.

    0  done
    1  not done: one line on stderr says why and what to do
    2  the command line makes no sense
   70  a mistake of ours; SDS_DEBUG=1 shows where
  130  interrupted

  M1  Modules are imported when their verb runs: `sds --help` costs nothing.
  M2  Nothing that a user can cause ends in a traceback.
"""

import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from sds.cli.parser import build_parser
from sds.core.errors import SdsError

INTERNAL_ERROR = 70
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    logging.basicConfig(format="sds: %(message)s", level=logging.WARNING)
    try:
        arguments = build_parser().parse_args(argv)
        module, _, function = arguments.run.partition(":")
        getattr(import_module(f"sds.cli.{module}"), function)(arguments)
        sys.stdout.flush()
    except SystemExit as wish:
        return int(wish.code or 0) if not isinstance(wish.code, str) else 2
    except BaseException as error:
        return tell(_sole(error))
    return 0


def _sole(error: BaseException) -> BaseException:
    """The first error in a group: the others followed from it."""
    while isinstance(error, BaseExceptionGroup):
        inner = [one for one in error.exceptions if isinstance(one, SdsError | BaseExceptionGroup)]
        error = inner[0] if inner else error.exceptions[0]
    return error


def tell(error: BaseException) -> int:
    if isinstance(error, SdsError):
        return _say(str(error), 1)
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        # Who read our output has gone. What is still buffered must not complain at the end of the process.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if os.environ.get("SDS_DEBUG"):
        raise error
    if isinstance(error, OSError):
        return _say(str(error), 1)
    return _say(f"internal error: {type(error).__name__}: {error} (SDS_DEBUG=1 shows where)", INTERNAL_ERROR)


def _say(message: str, code: int) -> int:
    one_line = " ".join(message.split())
    print(f"sds: {one_line}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
