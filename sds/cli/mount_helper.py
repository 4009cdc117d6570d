"""`mount.sds`: what mount(8) runs for the type fuse.sds, and so for lines in fstab:

    tank/home  /home  fuse.sds  noatime,allow_other,home=/var/lib/sds  0  0

It is found as /sbin/mount.fuse.sds, a link to the program `mount.sds`. Called as mount(8) calls its helpers:

    mount.sds SOURCE DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]

  MH1  -f: only look whether it makes sense. -n and -s are taken and mean nothing here: there is no list of mounts but
       the kernel's, and options for others are known by name (sds/cli/mount_options.py).
  MH3  mount(8) takes a source for a path where there is such a one, and hands on an absolute one: we take it back. (At
       boot, in /, that is so for tank/home mounted on /tank/home.)
  MH2  Exit codes are those of mount(8): 0 mounted, 1 wrong call, 32 not mounted.
"""

import getopt
import os
import sys
from collections.abc import Sequence
from typing import Final

from sds.cli.main import main as sds
from sds.cli.mount_options import parse_options
from sds.core.errors import BadInput
from sds.core.names import parse_target

USAGE: Final = "usage: mount.sds POOL/DS[@SNAP] DIR [-sfnv] [-o OPTION,...] [-t fuse.sds]"
WRONG_CALL: Final = 1
NOT_MOUNTED: Final = 32
_USAGE_OF_SDS: Final = 2
_TYPES: Final = ("fuse.sds", "sds")


def main(argv: Sequence[str] | None = None) -> int:
    try:
        flags, words = getopt.gnu_getopt(list(sys.argv[1:] if argv is None else argv), "sfnvhVN:o:t:")
    except getopt.GetoptError as error:
        return _wrong(str(error))
    given = {name for name, _ in flags}
    if "-h" in given:
        print(USAGE)
        return 0
    if len(words) != 2:
        return _wrong(USAGE)
    source, directory = os.path.relpath(words[0]) if words[0].startswith("/") else words[0], words[1]  # MH3
    if "-N" in given:
        return _wrong("-N is not supported: run it in that namespace, with nsenter")
    kinds = [value for name, value in flags if name == "-t" and value not in _TYPES]
    if kinds:
        return _wrong(f"-t {kinds[0]} is none of ours: use fuse.sds")
    command = ["mount"]
    for name, value in flags:
        if name == "-o":
            command += ["-o", value]
    if "-f" in given:
        return _check(source, [value for name, value in flags if name == "-o"])
    code = sds([*command, "--", source, directory])
    if code == 0 and "-v" in given:
        print(f"mount.sds: {source} mounted on {directory}")
    return {0: 0, _USAGE_OF_SDS: WRONG_CALL}.get(code, NOT_MOUNTED)


def _check(source: str, options: list[str]) -> int:
    """MH1."""
    try:
        parse_options(options)
        parse_target(source)
    except BadInput as error:
        return _wrong(str(error))
    return 0


def _wrong(text: str) -> int:
    print(f"mount.sds: {text}", file=sys.stderr)
    return WRONG_CALL


if __name__ == "__main__":
    sys.exit(main())
