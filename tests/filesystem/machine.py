"""The differential state machine: the same operations on a directory of a known filesystem and on ours.

  DM1  After every operation the results agree (a value or the name of an errno), and so do the whole trees
       (sds.tests facts.py: FA1 to FA3).
  DM2  Few names, few contents: operations shall meet. Sizes lie around the borders of blocks and of what is stored
       inline.
  DM3  Most paths lead to what is there: they are drawn as numbers, and the tree says what they mean. A failure tells
       the whole history in plain operations.
  DM4  No operation leaves the directory: a symlink's target never begins or ends with `..`, and an absolute one leads
       nowhere. Devices and fifos are made, never opened.
  DM5  All is done as root, who keeps suid and sgid on a write, which a FUSE server cannot know: files never have them.
  DM6  mtime and ctime are compared by whether they moved. What stamps by ticks would not show it: `by_ticks` every
       operation begins in a tick of its own.
  DM7  With the writeback cache the kernel keeps mtime and ctime of files itself, and moves neither when a file is
       truncated to the size that it has: `stamps_truncation` is False there.
"""

import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar, Protocol

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.filesystem.facts import Tree, difference, moved
from tests.filesystem.syscalls import NS, UTIME_NOW, UTIME_OMIT

LONGEST = b"n" * 255
ODD = bytes(set(range(1, 256)) - {0x2F})[:200]
NAMES = (b"a", b"b", b"c")
COMMON = (*NAMES, *NAMES, *NAMES, *NAMES, *NAMES, *NAMES, b"\xff\xfe.", LONGEST)
name = st.sampled_from(COMMON)
final = st.sampled_from((*COMMON, ODD, LONGEST + b"n", b" "))
path = st.builds(lambda parents, last: b"/".join((*parents, last)), st.lists(name, max_size=2), final)
number = st.integers(0, 15)
# One strategy counts once in one_of, however often it is named: these are three.
there = st.one_of(number, st.integers(0, 11), st.integers(0, 7), path)
"""What is there, by its number (see Machine.path), or any path."""
new = st.one_of(st.tuples(number, final), st.tuples(st.integers(0, 7), name), number, path)
"""A name in a directory that is there; or something that is there; or any path."""
target = st.one_of(
    name, path, st.builds(lambda a, b: a + b"/../" + b, name, name),
    st.sampled_from((b"/no/such/place", b"t" * 300, b"/".join([LONGEST] * 15), b"a/" * 100 + b"b")),
)  # fmt: skip
number = st.integers(0, 15)
there = st.one_of(number, number, number, path)
"""What is there, by its number (see Machine.path), or any path."""
new = st.one_of(st.tuples(number, final), st.tuples(number, final), number, path)
"""A name in a directory that is there; or something that is there; or any path."""
offset = st.sampled_from((0, 1, 100, 4095, 4096, 4097, 12288, 65536, 131072 - 7))
length = st.sampled_from((0, 1, 10, 300, 1000, 2048, 4095, 4096, 5000, 20000))
size = st.one_of(offset, length, st.just(1 << 40))
content = st.builds(
    lambda count, byte: bytes((byte + at // 512) % 256 for at in range(count)), length, st.integers(1, 9)
)
mode = st.sampled_from((0o644, 0o600, 0o777, 0o1777, 0o000, 0o2755))
owner = st.sampled_from((-1, 0, 7, 65534, (1 << 32) - 2))
moment = st.sampled_from((0, 1, -1, 999_999_999, 10**9, 86400 * 365 * 40 * NS + 123456789, UTIME_NOW, UTIME_OMIT))
open_flags = st.builds(
    lambda *parts: sum(parts), st.just(os.O_RDWR),
    st.sampled_from((os.O_CREAT, os.O_CREAT, 0, os.O_CREAT | os.O_EXCL)), st.sampled_from((0, 0, 0, os.O_TRUNC)),
    st.sampled_from((0, 0, os.O_APPEND)),
)  # fmt: skip
node = st.sampled_from((
    (stat.S_IFREG | 0o640, 0), (stat.S_IFIFO | 0o600, 0), (stat.S_IFSOCK | 0o755, 0),
    (stat.S_IFCHR | 0o666, os.makedev(1, 3)), (stat.S_IFBLK | 0o600, os.makedev(259, 70000)),
))  # fmt: skip
xattr = st.sampled_from((b"user.a", b"user.b", b"user.\xfe\xff", b"user." + b"x" * 250, b"user." + b"x" * 251))
value = st.sampled_from((b"", b"v", b"\0\xff", b"w" * 200))
xattr_flags = st.sampled_from((0, 0, os.XATTR_CREATE, os.XATTR_REPLACE))


CLOCK_REALTIME_COARSE = 5
"""Python has no name for it."""
RUN_MIN = 16
RUN = re.compile(rf"(\\x..|\\.|[^\\])\1{{{RUN_MIN - 1},}}")
There = int | bytes
New = There | tuple[int, bytes]


class Subject(Protocol):
    """What can be compared: Plain, Engine."""

    def run(self, operation: str, *arguments: object) -> object: ...
    def tree(self) -> Tree: ...
    def close_all(self) -> None: ...


def next_tick() -> None:
    """DM6: between two operations, so that times taken by ticks show both. A busy machine has late ticks."""
    now_ns = time.clock_gettime_ns(CLOCK_REALTIME_COARSE)
    while time.clock_gettime_ns(CLOCK_REALTIME_COARSE) == now_ns:
        time.sleep(0.001)


def is_open(machine: "Machine") -> bool:
    return bool(machine.open)


class Machine(RuleBasedStateMachine):
    """Subclasses say what is compared."""

    by_ticks: ClassVar[bool] = True
    stamps_truncation: ClassVar[bool] = True
    make: ClassVar[Callable[[], tuple[Subject, Subject, Callable[[], None]]]]
    """The known one, ours, and what ends both."""

    def __init__(self) -> None:
        super().__init__()
        self.known, self.ours, self._end = type(self).make()
        self.trees = self.known.tree(), self.ours.tree()
        self.open: dict[int, int] = {}
        """Handle -> flags."""
        self.history: list[str] = []
        self.check()

    def teardown(self) -> None:
        try:
            with self.told():
                self.end()
        finally:
            self._end()

    def end(self) -> None:
        """What is checked at the end of a history."""
        self.known.close_all()
        self.ours.close_all()
        self.open.clear()
        self.check()

    def both(self, operation: str, *arguments: object) -> object:
        """DM1, DM3."""
        self.history.append(f"{operation}({', '.join(map(_shown, arguments))})")
        with self.told():
            return self._both(operation, *arguments)

    @contextmanager
    def told(self) -> Iterator[None]:
        """DM3."""
        try:
            yield
        except BaseException as error:
            error.add_note("\n".join(("history:", *self.history)))
            raise

    def _both(self, operation: str, *arguments: object) -> object:
        if self.by_ticks:
            next_tick()
        expected, got = self.known.run(operation, *arguments), self.ours.run(operation, *arguments)
        assert got == expected, f"{operation}: {got!r}, expected {expected!r}"
        before = self.trees
        self.check()
        known, ours = (moved(old, new) for old, new in zip(before, self.trees, strict=True))
        wrong = {at: (ours.get(at), is_) for at, is_ in known.items() if ours.get(at) != is_}
        if not self.stamps_truncation and ("truncate" in operation or "open" in operation):
            wrong = {}  # DM7
        assert not wrong, f"{operation}: (mtime, ctime) moved, and expected: {wrong}"
        return got

    def check(self) -> None:
        self.trees = self.known.tree(), self.ours.tree()
        found = difference(*self.trees)
        assert not found, found

    def path(self, drawn: int | bytes | tuple[int, bytes]) -> bytes:
        """DM3."""
        if isinstance(drawn, bytes):
            return drawn
        tree = {path: one.facts.mode for path, one in self.trees[0].items() if not path.startswith(b"/")}
        if isinstance(drawn, int):
            paths = sorted(tree.keys() - {b""}) or [b"a"]
            return paths[drawn % len(paths)]
        directories = sorted(path for path, mode in tree.items() if stat.S_ISDIR(mode))
        parent = directories[drawn[0] % len(directories)]
        return parent + b"/" + drawn[1] if parent else drawn[1]

    def handle(self, number: int) -> int:
        return sorted(self.open)[number % len(self.open)]

    @initialize(populated=st.booleans())
    def populate(self, populated: bool) -> None:
        if populated:
            for each in (b"a", b"b", b"a/b", b"a/b/c"):
                self.both("mkdir", each, 0o755)
            for number, each in enumerate((b"c", b"a/c")):
                self.both("open", number, each, os.O_RDWR | os.O_CREAT, 0o644)
                self.open[number] = os.O_RDWR

    # -- open files ----------------------------------------------------------------------------------------------------

    @rule(number=st.integers(0, 2), at=new, flags=open_flags, mode=st.sampled_from((0o644, 0o666, 0o600)))
    def open_file(self, number: int, at: New, flags: int, mode: int) -> None:
        if self.both("open", number, self.path(at), flags, mode) == "open":
            self.open[number] = flags

    @precondition(is_open)
    @rule(number=number)
    def close_file(self, number: int) -> None:
        handle = self.handle(number)
        del self.open[handle]
        self.both("close", handle)

    @precondition(is_open)
    @rule(number=number, offset=offset, data=content)
    def write(self, number: int, offset: int, data: bytes) -> None:
        self.both("write", self.handle(number), offset, data)

    @precondition(is_open)
    @rule(number=number, offset=offset, length=length)
    def read(self, number: int, offset: int, length: int) -> None:
        self.both("read", self.handle(number), offset, length)

    @precondition(is_open)
    @rule(number=number, size=size)
    def resize(self, number: int, size: int) -> None:
        self.both("resize", self.handle(number), size)

    @precondition(is_open)
    @rule(number=number)
    def sync(self, number: int) -> None:
        self.both("sync", self.handle(number))

    # -- names ---------------------------------------------------------------------------------------------------------

    @rule(at=new, mode=st.sampled_from((0o755, 0o777, 0o1777, 0o700)))
    def mkdir(self, at: New, mode: int) -> None:
        self.both("mkdir", self.path(at), mode)

    @rule(at=new, node=node)
    def mknod(self, at: New, node: tuple[int, int]) -> None:
        self.both("mknod", self.path(at), *node)

    @rule(to=target, at=new)
    def symlink(self, to: bytes, at: New) -> None:
        self.both("symlink", to, self.path(at))

    @rule(old=there, at=new)
    def link(self, old: There, at: New) -> None:
        self.both("link", self.path(old), self.path(at))

    @rule(at=there)
    def unlink(self, at: There) -> None:
        self.both("unlink", self.path(at))

    @rule(at=there)
    def rmdir(self, at: There) -> None:
        self.both("rmdir", self.path(at))

    @rule(old=there, at=new, flags=st.sampled_from((0, 0, 0, 1, 2, 2, 3)))
    def rename(self, old: There, at: New, flags: int) -> None:
        self.both("rename", self.path(old), self.path(at), flags)

    @rule(at=there)
    def look(self, at: There) -> None:
        self.both("readlink", self.path(at))
        self.both("list", self.path(at))

    # -- attributes ----------------------------------------------------------------------------------------------------

    @rule(at=there, mode=mode)
    def chmod(self, at: There, mode: int) -> None:
        path = self.path(at)
        is_directory = isinstance(self.known.run("list", path), list)
        self.both("chmod", path, mode if is_directory else mode & 0o1777)

    @rule(at=there, uid=owner, gid=owner, follow=st.booleans())
    def chown(self, at: There, uid: int, gid: int, follow: bool) -> None:
        self.both("chown", self.path(at), uid, gid, follow)

    @rule(at=there, size=size)
    def truncate(self, at: There, size: int) -> None:
        self.both("truncate", self.path(at), size)

    @rule(at=there, atime=moment, mtime=moment, follow=st.booleans())
    def utimens(self, at: There, atime: int, mtime: int, follow: bool) -> None:
        self.both("utimens", self.path(at), atime, mtime, follow)

    @rule(at=there, name=xattr, value=value, flags=xattr_flags)
    def setxattr(self, at: There, name: bytes, value: bytes, flags: int) -> None:
        if self.known.run("getxattr", self.path(at), name) != value:  # ext4 does nothing then, not even to ctime
            self.both("setxattr", self.path(at), name, value, flags)

    @rule(at=there, name=xattr, remove=st.booleans())
    def xattr(self, at: There, name: bytes, remove: bool) -> None:
        self.both("getxattr", self.path(at), name)
        if remove:
            self.both("removexattr", self.path(at), name)


def _shown(argument: object) -> str:
    """Long runs of a byte are counted: with every byte of a content nobody could read a history."""
    if not isinstance(argument, bytes) or len(argument) < RUN_MIN:
        return repr(argument)
    return RUN.sub(lambda run: f"' + b'{run[1]}' * {run[0].count(run[1])} + b'", repr(argument)).replace(" + b''", "")
