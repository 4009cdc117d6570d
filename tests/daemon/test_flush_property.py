"""Setting flush=backend: the catalog says so only when what was flushed before is where it stays."""

import pytest

from sds.core.errors import BackendError
from tests.maintenance.world import World, Writer, in_world


def test_the_catalog_learns_of_it_after_a_flush_that_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(world: World) -> None:
        async with world.open() as here:
            await Writer(here, 1).write(5)
            seen: list[str | None] = []

            async def flush() -> None:
                seen.append(world.pool.catalog.dataset("vm").properties.get("flush"))
                assert here.dataset.log.settles

            monkeypatch.setattr(here.dataset, "flush", flush)
            await here.operations.set_property("flush", "backend")
            assert seen == [None]
            assert world.pool.catalog.dataset("vm").properties["flush"] == "backend"

    in_world(work)


def test_a_store_that_is_away_leaves_it_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(world: World) -> None:
        async with world.open() as here:

            async def flush() -> None:
                raise BackendError("the store is away")

            monkeypatch.setattr(here.dataset, "flush", flush)
            with pytest.raises(BackendError, match="away"):
                await here.operations.set_property("flush", "backend")
            assert not here.dataset.log.settles
            assert "flush" not in world.pool.catalog.dataset("vm").properties

    in_world(work)
