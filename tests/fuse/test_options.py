"""Mount options as people write them."""

import pytest

from fuse.options import Options, parsed
from sds.core.errors import BadInput

BASE = Options(fsname="tank/home")


def test_without_options_a_user_gets_the_plain_ones() -> None:
    assert BASE.for_libfuse(as_root=False) == {"fsname=tank/home", "subtype=sds", "default_permissions", "rw"}


def test_root_gets_suid_and_dev_unless_told_otherwise() -> None:
    assert BASE.for_libfuse(as_root=True) >= {"suid", "dev"}
    words = parsed(BASE, ["nosuid,nodev"]).for_libfuse(as_root=True)
    assert words >= {"nosuid", "nodev"}
    assert not {"suid", "dev"} & words


def test_the_last_of_two_opposites_counts() -> None:
    assert parsed(BASE, ["nosuid,suid"]).flags == {"suid"}
    assert parsed(BASE, ["exec", "noexec"]).flags == {"noexec"}
    assert parsed(BASE, ["ro,rw"]).read_only is False
    assert parsed(BASE, ["rw", "ro"]).read_only is True


def test_our_own_options_are_understood() -> None:
    options = parsed(BASE, ["allow_other,writeback,acl,nouser_xattr"])
    assert (options.allow_other, options.writeback_cache, options.acl, options.xattrs) == (True, True, True, False)
    assert "allow_other" in options.for_libfuse(as_root=False)


def test_what_fstab_lines_carry_along_is_dropped() -> None:
    assert parsed(BASE, ["defaults,noauto,_netdev,nofail,x-systemd.automount,relatime,user,"]) == BASE


def test_permissions_are_always_checked() -> None:
    assert "default_permissions" in parsed(BASE, ["allow_other"]).for_libfuse(as_root=True)


@pytest.mark.parametrize("text", ["sparkling", "fsname=other", "max_read=4096", "subtype=ext4", "ro noatime"])
def test_anything_else_is_refused_with_what_there_is(text: str) -> None:
    with pytest.raises(BadInput, match="is unknown: choose from acl, allow_other"):
        parsed(BASE, [text])


def test_the_name_of_the_source_is_quoted_for_libfuse() -> None:
    assert r"fsname=a\,b\\c" in Options(fsname="a,b\\c").for_libfuse(as_root=False)
    with pytest.raises(BadInput):
        Options(fsname="größe").for_libfuse(as_root=False)
