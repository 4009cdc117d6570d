"""Power cuts of a raw device: writes since the last flush are kept or dropped, each sector by itself."""

import os
import random
from pathlib import Path

import pytest

from backends import device_find
from backends.device_files import DeviceFiles
from backends.device_format import SECTOR
from backends.device_io import Disk
from backends.device_setup import format_device
from tests.backends.places import PAGE, pages
from tests.backends.test_device import assert_no_unit_is_shared

SIZE_BYTES = 64 << 20
Allowed = dict[str, set[bytes | None]]
Sectors = dict[int, bytes]


class Recorder:
    """What is durable, what may be, and what the caller may expect of it, at moments by chance."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.durable: Sectors = {}
        self.pending: list[tuple[int, bytes]] = []
        self.allowed: Allowed = {}
        self.cuts: list[tuple[Sectors, Allowed]] = []

    def write(self, offset: int, data: bytes) -> None:
        for at in range(0, len(data), SECTOR):
            self.pending.append((offset + at, data[at : at + SECTOR]))
        self.maybe_cut()

    def flush(self) -> None:
        self.maybe_cut()
        self.durable.update(self.pending)
        self.pending.clear()
        self.maybe_cut()

    def maybe_cut(self) -> None:
        if self.rng.random() > 0.06:
            return
        image = dict(self.durable)
        share = self.rng.choice((0.0, 0.1, 0.5, 0.9, 1.0))
        image.update({at: sector for at, sector in self.pending if self.rng.random() < share})
        self.cuts.append((image, {name: set(values) for name, values in self.allowed.items()}))


def write_image(path: Path, sectors: Sectors) -> None:
    path.write_bytes(b"")
    os.truncate(path, SIZE_BYTES)
    with path.open("r+b") as raw:
        for at, sector in sectors.items():
            raw.seek(at)
            raw.write(sector)


def use(files: DeviceFiles, recorder: Recorder, rng: random.Random) -> None:
    allowed = recorder.allowed
    for step in range(120):
        name = f"n{rng.randrange(9)}"
        before: set[bytes | None] = allowed.get(name, {None})
        content = bytes(pages(rng.choice((1, 2, 300)), fill=step % 250 + 1))
        if rng.random() < 0.4:
            allowed[name] = before | {None}
            files.delete(name)
        elif rng.random() < 0.5:
            allowed[name] = before | {content}
            files.put(name, content)
            allowed[name] = {content}
        elif not files.find(name):
            allowed.pop(name, None)  # Before the first sync anything may be there.
            files.create(name, 4 << 20)
            files.write(name, 0, memoryview(content), False)
            files.sync(name)
            files.seal(name, len(content))
            allowed[name] = {content}


@pytest.mark.parametrize("seed", range(4))
def test_after_a_power_cut_every_file_is_as_promised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    rng = random.Random(seed)
    image = tmp_path / "image"
    write_image(image, {})
    url = format_device(str(image), force=False)
    content = image.read_bytes()
    recorder = Recorder(rng)
    zero = bytes(SECTOR)
    places = range(0, SIZE_BYTES, SECTOR)
    recorder.durable = {at: content[at : at + SECTOR] for at in places if content[at : at + SECTOR] != zero}

    class Recording(Disk):
        def write(self, offset: int, data: memoryview) -> None:
            super().write(offset, data)
            recorder.write(offset, bytes(data))

        def flush(self) -> None:
            recorder.flush()

        def discard(self, offset: int, length: int) -> None:
            for at in range(offset, offset + length, SECTOR):  # Gone at once: the worst that can happen.
                recorder.durable.pop(at, None)

    with monkeypatch.context() as patched:
        patched.setattr(device_find, "Disk", Recording)
        files = DeviceFiles(url)
        use(files, recorder, rng)
        files.close()
    assert len(recorder.cuts) > 20
    for sectors, allowed in rng.sample(recorder.cuts, 20):
        write_image(image, sectors)
        files = DeviceFiles(url)
        assert files.damaged_entries == 0
        there = {stat.name for stat in files.find("")}
        for name, values in allowed.items():
            found = files.get(name, 8 << 20) if name in there else None
            if found is not None and found not in values:
                # A file that was synced, and not yet cut by its seal.
                assert any(value is not None and found.startswith(value) for value in values), name
                assert len(found) == 4 << 20
            assert found is not None or None in values, name
        assert_no_unit_is_shared(files)
        files.put("after", bytes(PAGE))
        files.close()
