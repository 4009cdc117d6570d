"""kill -9 of a mount's worker under load: nothing that was acknowledged is lost, and the tree is whole."""

import random
import time
from pathlib import Path

import pytest

from tests.filesystem.profile import fresh, is_long
from tests.mounted.harness import pool_with_filesystem
from tests.mounted.load import Load, Model

pytestmark = pytest.mark.real("mkfs.ext4", "fusermount3")
WRITERS = 2


def test_the_load_and_its_model_agree_with_a_filesystem_that_is_right_and_notice_what_is_not(known: Path) -> None:
    load = Load(fresh(known), 7, Model())
    time.sleep(0.5)
    load.kill()
    assert load.done > 100
    load.verify()
    file = max((path for path in load.directory.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(AssertionError, match="of another content"):
        load.verify()
    data[-1] ^= 1
    file.write_bytes(data)
    load.verify()
    file.unlink()
    with pytest.raises(AssertionError, match="is absent"):
        load.verify()


@pytest.mark.parametrize(("options", "rounds"), [((), 6), (("writeback",), 3)], ids=["default", "writeback"])
def test_kill_9_loses_nothing_that_was_acknowledged(
    request: pytest.FixtureRequest, options: tuple[str, ...], rounds: int
) -> None:
    rounds *= 30 if is_long(request) else 1
    rng = random.Random(1)
    done = synced = in_flight = unsynced = 0
    with pool_with_filesystem(segment_size="1M") as mount:
        mount.start(*options)
        directories = [fresh(mount.path) for _ in range(WRITERS)]
        models = [Model() for _ in range(WRITERS)]
        for number in range(rounds):
            loads = [
                Load(directory, number * WRITERS + at, model)
                for at, (directory, model) in enumerate(zip(directories, models, strict=True))
            ]
            try:
                time.sleep(rng.uniform(0.3, 1.0))
            finally:
                mount.kill()
                for load in loads:
                    load.wait()
            assert all(load.problem for load in loads), "a writer ended by itself"
            mount.start(*options)
            for load in loads:
                in_flight += load.in_flight is not None
                done, synced, unsynced = done + load.done, synced + load.synced, unsynced + load.unsynced
                load.verify()
            models = [load.model for load in loads]
        mount.stop()
        mount.check_log()
    assert done > 20 * rounds and synced > rounds, "there was no load to speak of"
    assert in_flight > rounds and unsynced > rounds, "nothing was in flight, or all of it was synced"
