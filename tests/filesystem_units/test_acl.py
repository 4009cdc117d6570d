"""Access control lists: the kernel's rules, with the kernel itself as the judge where it can be asked."""

import errno
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sds.filesystem.acl import (
    ACL_ACCESS,
    ACL_DEFAULT,
    ENTRIES_MAX,
    GROUP,
    GROUP_OBJ,
    ID_NONE,
    MASK,
    OTHER,
    USER,
    USER_OBJ,
    Acl,
    AclEntry,
    decode_acl,
    encode_acl,
    inherit,
    mode_of,
    with_mode,
)

PERM = st.integers(0, 7)
ID = st.integers(0, ID_NONE - 1)
SETTINGS = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def named(tag: int) -> st.SearchStrategy[list[AclEntry]]:
    return st.lists(st.tuples(PERM, ID).map(lambda both: AclEntry(tag, *both)), max_size=3)


def lone(tag: int) -> st.SearchStrategy[list[AclEntry]]:
    return PERM.map(lambda perm: [AclEntry(tag, perm)])


@st.composite
def acls(draw: st.DrawFn) -> Acl:
    users, groups = draw(named(USER)), draw(named(GROUP))
    mask = draw(lone(MASK) if users or groups else st.just([]) | lone(MASK))
    return (*draw(lone(USER_OBJ)), *users, *draw(lone(GROUP_OBJ)), *groups, *mask, *draw(lone(OTHER)))


def packed(*entries: tuple[int, int, int], version: int = 2) -> bytes:
    return struct.pack("<I", version) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


ENTRY = st.tuples(
    st.sampled_from((0, USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER, 64)),
    st.sampled_from((0, 1, 7, 8)),
    st.sampled_from((0, 1, 1000, ID_NONE)),
)
MINIMAL = ((USER_OBJ, 6, ID_NONE), (GROUP_OBJ, 4, ID_NONE), (OTHER, 4, ID_NONE))


@st.composite
def nearly_valid(draw: st.DrawFn) -> bytes:
    """A valid ACL with one or two things wrong, sometimes none."""
    entries: list[tuple[int, int, int]] = [(tag, perm, number) for tag, perm, number in draw(acls())]
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(entries) - 1))
        how = draw(st.sampled_from(("drop", "twice", "swap", "other")))
        if how == "drop" and len(entries) > 1:
            del entries[at]
        elif how == "twice":
            entries.insert(at, entries[at])
        elif how == "swap":
            entries[at], entries[at - 1] = entries[at - 1], entries[at]
        elif how == "other":
            entries[at] = draw(ENTRY)
    value = packed(*entries, version=draw(st.sampled_from((2, 2, 2, 2, 2, 1, 3))))
    return value + bytes(draw(st.sampled_from((0, 0, 0, 1, 4))))


def errno_of(value: bytes) -> int:
    try:
        decode_acl(value)
    except OSError as error:
        return error.errno or 0
    return 0


@pytest.fixture
def judge(tmp_path: Path) -> Iterator[Path]:
    """A directory of the kernel's own, with ACLs."""
    try:
        os.setxattr(tmp_path, ACL_DEFAULT, packed(*MINIMAL))
    except OSError as error:
        pytest.skip(f"the filesystem of {tmp_path} has no ACLs: {error.strerror}")
    os.removexattr(tmp_path, ACL_DEFAULT)
    old = os.umask(0)
    yield tmp_path
    os.umask(old)


def access_of(path: Path) -> Acl | None:
    try:
        return decode_acl(os.getxattr(path, ACL_ACCESS))
    except OSError as error:
        if error.errno != errno.ENODATA:
            raise
        return None


@given(acls())
def test_what_was_encoded_is_decoded(acl: Acl) -> None:
    assert decode_acl(encode_acl(acl)) == acl


@given(st.binary(max_size=60) | nearly_valid())
def test_whatever_is_decoded_encodes_to_the_same_rights(value: bytes) -> None:
    """AC2, AC3: nothing but OSError comes of garbage."""
    if errno_of(value) == 0:
        acl = decode_acl(value)
        assert len(encode_acl(acl)) == len(value)
        assert decode_acl(encode_acl(acl)) == acl


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (b"", errno.EINVAL),
        (b"\2\0\0", errno.EINVAL),
        (packed(), errno.EINVAL),
        (packed(*MINIMAL) + b"x", errno.EINVAL),
        (packed(*MINIMAL, version=1), errno.EOPNOTSUPP),
        (packed(*MINIMAL[:2]), errno.EINVAL),
        (packed(*MINIMAL[1:]), errno.EINVAL),
        (packed(MINIMAL[0], MINIMAL[2]), errno.EINVAL),
        (packed(*MINIMAL, MINIMAL[2]), errno.EINVAL),
        (packed(MINIMAL[0], *MINIMAL), errno.EINVAL),
        (packed(MINIMAL[1], MINIMAL[0], MINIMAL[2]), errno.EINVAL),
        (packed(MINIMAL[0], (USER, 4, 1000), *MINIMAL[1:]), errno.EINVAL),
        (packed(*MINIMAL[:2], (GROUP, 4, 1000), MINIMAL[2]), errno.EINVAL),
        (packed(MINIMAL[0], (USER, 4, ID_NONE), MINIMAL[1], (MASK, 7, 0), MINIMAL[2]), errno.EINVAL),
        (packed((USER_OBJ, 8, ID_NONE), *MINIMAL[1:]), errno.EINVAL),
        (packed(*MINIMAL[:2], (64, 0, 0), MINIMAL[2]), errno.EINVAL),
        (packed(MINIMAL[0], (USER, 4, 1000), (MASK, 7, 0), MINIMAL[2]), errno.EINVAL),
        (packed(*MINIMAL[:2], (MASK, 1, 0), MINIMAL[2]), 0),
        (packed(*MINIMAL), 0),
        (packed(*((tag, perm, 77) for tag, perm, _ in MINIMAL)), 0),
    ],
)
def test_what_is_no_acl_is_refused(value: bytes, number: int) -> None:
    assert errno_of(value) == number


def test_ids_of_entries_that_have_none_are_forgotten() -> None:
    """AC3."""
    assert decode_acl(packed(*((tag, perm, 77) for tag, perm, _ in MINIMAL))) == decode_acl(packed(*MINIMAL))


def many(count: int) -> bytes:
    users = ((USER, 7, number) for number in range(count - 4))
    return packed(MINIMAL[0], *users, MINIMAL[1], (MASK, 7, ID_NONE), MINIMAL[2])


def test_the_number_of_entries_is_bounded_and_the_bound_is_reachable() -> None:
    assert len(decode_acl(many(ENTRIES_MAX))) == ENTRIES_MAX
    assert errno_of(many(ENTRIES_MAX + 1)) == errno.E2BIG
    assert len(many(ENTRIES_MAX)) <= 4096 < len(many(ENTRIES_MAX + 1))


@given(st.integers(0, 0o777))
def test_an_acl_of_three_entries_is_a_mode_and_no_other_is(mode: int) -> None:
    acl = with_mode(decode_acl(packed(*MINIMAL)), mode)
    assert mode_of(acl) == (mode, True)
    masked = (*acl[:2], AclEntry(MASK, 0), acl[2])
    assert mode_of(masked) == (mode & 0o707, False)


@given(acls(), st.integers(0, 0o7777))
def test_after_a_chmod_mode_and_acl_agree(acl: Acl, mode: int) -> None:
    """AC1."""
    changed = with_mode(acl, mode)
    assert mode_of(changed)[0] == mode & 0o777
    assert [(entry.tag, entry.id) for entry in changed] == [(entry.tag, entry.id) for entry in acl]
    assert [entry for entry in changed if entry.tag in (USER, GROUP)] == [
        entry for entry in acl if entry.tag in (USER, GROUP)
    ]


@given(acls(), st.sampled_from((stat.S_IFREG, stat.S_IFDIR, stat.S_IFIFO)), st.integers(0, 0o7777))
def test_nobody_inherits_more_than_the_default_acl_or_the_mode_allows(acl: Acl, kind: int, mode: int) -> None:
    access, inherited = inherit(acl, kind | mode)
    assert inherited & ~0o777 == kind | mode & 0o7000
    assert inherited & 0o777 == mode & mode_of(acl)[0]
    assert (access is None) == (len(acl) == 3)
    assert access is None or mode_of(access)[0] == inherited & 0o777


@SETTINGS
@given(value=nearly_valid())
def test_the_kernel_takes_and_refuses_the_same_acls(judge: Path, value: bytes) -> None:
    """AC2. (An ACL without entries is one that the kernel never passes on: it removes the ACL.)"""
    path = judge / "file"
    path.touch()
    try:
        os.setxattr(path, ACL_ACCESS, value)
        number = 0
    except OSError as error:
        number = error.errno or 0
    assert errno_of(value) == number


@SETTINGS
@given(acl=acls(), mode=st.integers(0, 0o777))
def test_the_kernel_derives_the_same_modes(judge: Path, acl: Acl, mode: int) -> None:
    """AC1, on setting an ACL and on chmod."""
    path = judge / "file"
    path.unlink(missing_ok=True)
    path.touch()
    os.setxattr(path, ACL_ACCESS, encode_acl(acl))
    bits, is_mode = mode_of(acl)
    assert stat.S_IMODE(path.stat().st_mode) == bits
    assert access_of(path) == (None if is_mode else acl)
    path.chmod(mode)
    assert access_of(path) == (None if is_mode else with_mode(acl, mode))


@SETTINGS
@given(acl=acls(), mode=st.integers(0, 0o777), is_directory=st.booleans())
def test_the_kernel_makes_new_inodes_inherit_the_same(judge: Path, acl: Acl, mode: int, is_directory: bool) -> None:
    parent, path = judge / "parent", judge / "parent/new"
    if path.exists():
        path.rmdir() if path.is_dir() else path.unlink()
    parent.mkdir(exist_ok=True)
    os.setxattr(parent, ACL_DEFAULT, encode_acl(acl))
    if is_directory:
        path.mkdir(mode)
        assert decode_acl(os.getxattr(path, ACL_DEFAULT)) == acl
    else:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
    status = path.stat().st_mode
    assert (access_of(path), status) == inherit(acl, stat.S_IFMT(status) | mode)
