"""-o: what people and mount(8) write there is understood; what would be ignored silently is refused."""

import pytest

from sds.cli.mount_options import parse_options
from sds.core.errors import BadInput
from sds.core.names import parse_target

HOME, SNAPSHOT = parse_target("tank/home"), parse_target("tank/home@a")


def test_nothing_said_is_read_and_write_for_the_one_who_mounts() -> None:
    options = parse_options([]).for_target(HOME)
    assert (options.fsname, options.read_only, options.allow_other) == ("tank/home", False, False)


def test_options_of_an_fstab_line_and_of_its_readers_are_taken() -> None:
    line = "rw,noatime,allow_other,nosuid,noauto,nofail,_netdev,user,x-systemd.automount,comment=x,home=/srv/sds"
    found = parse_options([line, "user=joe,uhelper=x,loud", "defaults", "relatime,nodev", ""])
    assert found.home == "/srv/sds"
    options = found.for_target(HOME)
    assert options.allow_other
    assert not options.read_only
    assert {"nosuid", "nodev"} <= options.flags


def test_the_last_word_wins() -> None:
    assert parse_options(["ro,rw", "ro"]).for_target(HOME).read_only
    assert not parse_options(["ro", "rw"]).for_target(HOME).read_only


def test_a_snapshot_is_read_only_whatever_is_said() -> None:
    assert parse_options(["rw"]).for_target(SNAPSHOT).read_only
    assert parse_options([]).for_target(SNAPSHOT).read_only


@pytest.mark.parametrize("text", ["nonsense", "ro,foo", "home=relative", "home=", "remount,ro", "RO", "uid=5", "\0"])
def test_a_word_without_meaning_is_refused(text: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_options([text])
    assert "\n" not in str(caught.value)


def test_refusals_say_what_there_is() -> None:
    with pytest.raises(BadInput, match=r"allow_other.*noatime"):
        parse_options(["nonsense"])
    with pytest.raises(BadInput, match="unmount it"):
        parse_options(["remount"])
