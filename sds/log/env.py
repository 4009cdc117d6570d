"""What the engine takes from the world outside the backends: threads, time, the boot. The simulator brings its own."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import trio

from sds.log.stage import FileStage, Stage

T = TypeVar("T")


class RunBlocking(Protocol):
    def __call__(self, function: Callable[..., T], *args: Any) -> Awaitable[T]:
        """Run a function that may block (a catalog transaction) without holding up the event loop."""


class OpenStage(Protocol):
    def __call__(self, pool: bytes, dataset: int, slot_count: int, slot_size: int) -> Stage: ...


@dataclass(frozen=True, slots=True)
class Env:
    run_blocking: RunBlocking
    open_stage: OpenStage


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def real_env(stage_directory: Path = Path("/dev/shm")) -> Env:
    """Threads of trio and stages in a tmpfs."""

    async def run_blocking(function: Callable[..., T], *args: Any) -> T:
        return await trio.to_thread.run_sync(function, *args)

    def open_stage(pool: bytes, dataset: int, slot_count: int, slot_size: int) -> Stage:
        path = stage_directory / f"sds-{pool.hex()}-{dataset:08x}.stage"
        return FileStage(path, pool, dataset, slot_count, slot_size, boot_id())

    return Env(run_blocking, open_stage)


def sole_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one error in a group, cancellations aside; the group itself if there are several."""
    errors = [error for error in _leaves(group) if not isinstance(error, trio.Cancelled)]
    return errors[0] if len(errors) == 1 else group


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
