"""A raw device: what the conformance suite cannot see from outside."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from backends.device_files import DeviceFiles
from backends.device_format import SECTOR, UNIT, Entry, Superblock, decode_superblock
from backends.device_setup import accept_damage, format_device, wipe_device
from sds.core.errors import BackendError, BadInput, Busy, Corrupt, Missing, NoSpace, SdsError
from tests.backends.loops import attach, detach, loop_device
from tests.backends.places import PAGE, pages


def image_of(path: Path, size_bytes: int = 64 << 20) -> str:
    image = path / "image"
    image.touch()
    os.truncate(image, size_bytes)
    return format_device(str(image), force=False)


def entries_of(files: DeviceFiles) -> dict[str, Entry]:
    files.find("")
    return dict(files._table.names)


def assert_no_unit_is_shared(files: DeviceFiles) -> None:
    seen: set[int] = set()
    for entry in entries_of(files).values():
        for first, count in entry.extents:
            units = set(range(first, first + count))
            assert not units & seen
            seen |= units


def write_units(files: DeviceFiles, name: str, data: memoryview) -> None:
    for index in range(16):
        files.write(name, index * UNIT, data, True)


def superblock_of(image: Path) -> Superblock:
    return decode_superblock(image.read_bytes()[:SECTOR])


def test_a_full_device_is_a_clean_no_space_and_deleting_gives_room(tmp_path: Path) -> None:
    files = DeviceFiles(image_of(tmp_path))
    count = files.usage().free_bytes // UNIT
    for index in range(count):
        files.create(f"f{index}", UNIT)
    assert files.usage().free_bytes == 0
    with pytest.raises(NoSpace):
        files.create("more", PAGE)
    for name in ("more", "f0"):
        with pytest.raises(NoSpace):
            files.put(name, b"x")
    assert len(files.find("")) == count
    for index in range(0, count, 2):
        files.delete(f"f{index}")
    files.create("scattered", 20 * UNIT)
    data = pages(20 * UNIT // PAGE)
    files.write("scattered", 0, data, True)
    assert files.get("scattered", 20 * UNIT) == data
    assert len(entries_of(files)["scattered"].extents) > 1
    assert_no_unit_is_shared(files)
    files.close()


def test_the_room_of_a_fenced_writer_is_given_to_nobody(tmp_path: Path) -> None:
    url = image_of(tmp_path)
    fenced, other = DeviceFiles(url), DeviceFiles(url)
    fenced.create("old", 30 * UNIT)
    other.delete("old")
    with pytest.raises(NoSpace):
        other.create("new", other.usage().total_bytes)
    other.create("new", 30 * UNIT)
    other.write("new", 0, pages(1, fill=9), True)
    fenced.write("old", 0, pages(30 * UNIT // PAGE, fill=3), True)
    assert other.get("new", 30 * UNIT)[:PAGE] == pages(1, fill=9)
    fenced.close()
    other.create("later", 30 * UNIT)  # Now its room is free.
    other.close()


ALLOCATE = """
import sys
from backends.device_files import DeviceFiles
from tests.backends.places import pages
files = DeviceFiles(sys.argv[1])
for index in range(60):
    name = f"p{sys.argv[2]}/{index}"
    files.create(name, 2 << 20)
    files.write(name, 0, pages(512, fill=int(sys.argv[2])), index % 5 == 0)
    if index % 3:
        files.delete(name)
    else:
        files.seal(name, 1 << 20)
        files.put("both", bytes([int(sys.argv[2])]) * 5000)
files.close()
"""


def test_two_processes_that_allocate_at_the_same_time_share_no_unit(tmp_path: Path) -> None:
    url = image_of(tmp_path, 128 << 20)
    command = [sys.executable, "-c", ALLOCATE, url]
    processes = [subprocess.Popen([*command, number]) for number in "12"]
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    files = DeviceFiles(url)
    assert len(files.find("p1/")) == len(files.find("p2/")) == 20
    assert_no_unit_is_shared(files)
    for number in (1, 2):
        for stat in files.find(f"p{number}/"):
            assert files.get(stat.name, UNIT) == bytes(pages(256, fill=number))
    assert files.get("both", 5000) in (b"\1" * 5000, b"\2" * 5000)
    files.close()


def test_deleting_really_frees_the_room_of_the_backing_file(tmp_path: Path) -> None:
    files = DeviceFiles(image_of(tmp_path))
    files.create("a", 20 * UNIT)
    files.write("a", 0, pages(20 * UNIT // PAGE), True)
    before = os.stat(tmp_path / "image").st_blocks
    files.delete("a")
    files.close()
    assert os.stat(tmp_path / "image").st_blocks <= before - 19 * UNIT // 512


def test_a_failed_flush_is_final_for_every_file_that_is_open_for_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = DeviceFiles(image_of(tmp_path))
    for name in ("a", "b"):
        files.create(name, PAGE)
        files.write(name, 0, pages(1), False)

    def fail(fd: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", fail)
        with pytest.raises(BackendError):
            files.sync("a")
    for name in ("a", "b"):
        with pytest.raises(BackendError):
            files.sync(name)
    files.create("c", PAGE)
    files.write("c", 0, pages(1), True)
    files.close()


def test_one_damaged_copy_is_repaired_and_two_stop_new_files_until_somebody_says_so(tmp_path: Path) -> None:
    url = image_of(tmp_path)
    image = tmp_path / "image"
    files = DeviceFiles(url)
    for name in ("a", "b"):
        files.put(name, name.encode())
    slots = {name: entry.slot for name, entry in entries_of(files).items()}
    files.close()
    tables = superblock_of(image).tables_at
    with image.open("r+b") as raw:
        for at in (tables[0] + slots["a"] * SECTOR, tables[0] + slots["b"] * SECTOR, tables[1] + slots["b"] * SECTOR):
            raw.seek(at + 60)
            raw.write(b"????")
    files = DeviceFiles(url)
    assert files.get("a", 1) == b"a"
    assert [stat.name for stat in files.find("")] == ["a"]
    assert files.damaged_entries == 1
    with pytest.raises(BackendError, match="unreadable"):
        files.create("c", PAGE)
    files.close()
    assert accept_damage(url) == 1
    files = DeviceFiles(url)
    files.create("c", PAGE)
    raw_image = image.read_bytes()
    at = slots["a"] * SECTOR
    assert raw_image[tables[0] + at :][:SECTOR] == raw_image[tables[1] + at :][:SECTOR]
    files.close()


def test_random_flips_never_give_wrong_content_or_another_error(tmp_path: Path) -> None:
    url = image_of(tmp_path)
    image = tmp_path / "image"
    files = DeviceFiles(url)
    for index in range(8):
        files.put(f"f{index}", bytes([index]) * 1000)
    files.close()
    places = [0, *superblock_of(image).tables_at, superblock_of(image).copy_at, PAGE]
    rng = random.Random(5)
    for _ in range(60):
        with image.open("r+b") as raw:
            kept: dict[int, bytes] = {}
            for _ in range(rng.randrange(1, 12)):
                at = rng.choice(places) + rng.randrange(8 * SECTOR)
                raw.seek(at)
                kept.setdefault(at, raw.read(1))
                raw.seek(at)
                raw.write(bytes([rng.randrange(256)]))
        try:
            files = DeviceFiles(url)
            for stat in files.find(""):
                assert files.get(stat.name, 1000) == bytes([int(stat.name[1:])]) * 1000
            assert_no_unit_is_shared(files)
            files.close()
        except SdsError:
            pass
        with image.open("r+b") as raw:
            for at, byte in kept.items():
                raw.seek(at)
                raw.write(byte)


def test_a_device_that_was_cut_is_corrupt_and_wiped_ones_are_nobodys(tmp_path: Path) -> None:
    url = image_of(tmp_path)
    os.truncate(tmp_path / "image", 63 << 20)
    with pytest.raises(Corrupt, match="cut"):
        DeviceFiles(url)
    os.truncate(tmp_path / "image", 64 << 20)
    with pytest.raises(BadInput, match="pool"):
        format_device(str(tmp_path / "image"), force=False)
    files = DeviceFiles(url)
    for refused in (lambda: format_device(str(tmp_path / "image"), force=True), lambda: wipe_device(url)):
        with pytest.raises(Busy):
            refused()
    files.close()
    wipe_device(url)
    format_device(str(tmp_path / "image"), force=False)


@pytest.mark.real("losetup", "mkfs.ext4")
def test_a_loop_device_is_refused_with_a_file_system_and_found_by_uuid(tmp_path: Path) -> None:
    image = tmp_path / "image"
    with loop_device(image) as device:
        subprocess.run(["mkfs.ext4", "-q", device], check=True)
        with pytest.raises(BadInput, match=r"ext.*--force"):
            format_device(device, force=False)
        url = format_device(device, force=True)
        files = DeviceFiles(url)
        files.create("a", 4 * UNIT)
        for fill in range(1, 9):  # A read through the page cache never shows what was there before a direct write.
            files.write("a", 0, pages(64, fill=fill), fill == 8)
            assert files.get("a", 4 * UNIT)[: 64 * PAGE] == pages(64, fill=fill)
        files.close()
    other = tmp_path / "other"
    with loop_device(other):
        again = attach(image)
        try:
            files = DeviceFiles(url)
            assert files._disk.path == again
            assert files.get("a", 4 * UNIT)[:PAGE] == pages(1, fill=8)
            files.close()
        finally:
            detach(again)
    with pytest.raises((Missing, Corrupt)):
        DeviceFiles(url)


@pytest.mark.real("losetup", "mount", "umount")
def test_a_device_that_answers_with_errors_is_a_backend_error_and_never_a_hang(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(small)]
    if os.geteuid() != 0 or subprocess.run(command, check=False).returncode:
        pytest.skip("cannot mount here")
    try:
        with loop_device(small / "image") as device:  # Sparse: the file system below fills up at some write.
            try:
                files = DeviceFiles(format_device(device, force=False))
            except BackendError as error:
                pytest.fail(f"too small even for the tables: {error}")
            files.create("a", 16 * UNIT)
            data = pages(UNIT // PAGE)
            with pytest.raises(BackendError, match="check the device"):
                write_units(files, "a", data)
            with pytest.raises(BackendError, match="failed earlier"):
                files.write("a", 0, data, True)
            files.close()
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)
