"""`sds pool scrub|resilver|rebalance|remove`: in the foreground, with a line of progress on a terminal. Each may be
interrupted, and goes on where it was when it is given again.
"""

import sys
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

import trio

from backends.registry import connect
from sds.cli.output import print_json, size
from sds.cli.session import clock, environment, holder, home_of, run
from sds.core.errors import BackendError, BadInput, Corrupt, NoSpace
from sds.core.names import parse_pool
from sds.core.units import parse_size
from sds.daemon.cutting import cut_of
from sds.daemon.evacuating import evacuate, find_backend, give_up
from sds.daemon.scrubbing import scrub_pool
from sds.maintenance.limiter import Limiter
from sds.maintenance.mover import Mover, Tally
from sds.maintenance.moves import Goal
from sds.maintenance.moving import turn_of
from sds.maintenance.scrub import Scrubbed, Step
from sds.pool.pool import Pool, open_pool

Facts = dict[str, Any]
SHOW_EVERY_S = 0.2


class Progress:
    """One line on standard error, if that is a terminal."""

    def __init__(self) -> None:
        self._is_shown = sys.stderr.isatty()
        self._begin_s = self._shown_s = clock()
        self._width = 0

    def show(self, done_bytes: int, total_bytes: int, more: str = "") -> None:
        now_s = clock()
        if not self._is_shown or (now_s - self._shown_s < SHOW_EVERY_S and done_bytes < total_bytes):
            return
        self._shown_s = now_s
        text = f"{size(done_bytes)} of {size(total_bytes)}{left(done_bytes, total_bytes, now_s - self._begin_s)}{more}"
        sys.stderr.write("\r" + text.ljust(self._width))
        sys.stderr.flush()
        self._width = len(text)

    def step(self, step: Step) -> None:
        self.show(step.done_bytes, step.total_bytes, f", {step.findings} findings" if step.findings else "")

    def end(self) -> None:
        if self._width:
            sys.stderr.write("\r" + " " * self._width + "\r")
            sys.stderr.flush()


def left(done_bytes: int, total_bytes: int, elapsed_s: float) -> str:
    """The rate, and what is left at that rate."""
    if elapsed_s <= 0 or not done_bytes:
        return ""
    rate = done_bytes / elapsed_s
    rest_s = round((total_bytes - done_bytes) / rate)
    minutes, seconds = divmod(rest_s, 60)
    hours, minutes = divmod(minutes, 60)
    text = f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
    return f", {100 * done_bytes / max(total_bytes, 1):.0f} %, {size(int(rate))}/s, {text} left"


@asynccontextmanager
async def _opened(arguments: Namespace) -> AsyncIterator[Pool]:
    """With whatever backends answer: that is what maintenance is for."""
    pool = await open_pool(home_of(arguments), parse_pool(arguments.name), connect, allow_missing=True)
    try:
        yield pool
    finally:
        await pool.close()


def _mover(arguments: Namespace, pool: Pool, verb: str, progress: Progress) -> Mover:
    turn = turn_of(pool, holder(f"pool {verb} {pool.name}"))
    return Mover(pool, environment(), turn, Limiter(parse_size(arguments.rate)), progress.show)


# -- scrub -----------------------------------------------------------------------------------------------------------


def scrub(arguments: Namespace) -> None:
    """Exit 1 if something could not be healed."""
    progress = Progress()
    try:
        scrubbed, resilvered = run(_scrub, arguments, progress)
    finally:
        progress.end()
    if arguments.json:
        print_json(_scrub_facts(scrubbed, resilvered))
    else:
        _print_scrubbed(scrubbed, resilvered)
    counters = scrubbed.counters
    if not scrubbed.is_sound:
        what = f"{counters.lost} files have no good copy, {counters.unhealed} findings could not be healed"
        raise Corrupt(f"{what}: see above and `sds pool status {arguments.name}`")
    _refuse_problems(resilvered)


async def _scrub(arguments: Namespace, progress: Progress) -> tuple[Scrubbed, Tally]:
    rate = parse_size(arguments.rate)
    async with _opened(arguments) as pool:
        me = holder(f"pool scrub {pool.name}")
        return await scrub_pool(pool, environment(), me, clock, rate, arguments.all, progress.step)


def _scrub_facts(scrubbed: Scrubbed, resilvered: Tally) -> Facts:
    findings = [asdict(finding) for finding in scrubbed.findings]
    return asdict(scrubbed.counters) | {
        "resumed": scrubbed.was_resumed, "findings": findings, "resilver": _facts(resilvered),
    }  # fmt: skip


def _print_scrubbed(scrubbed: Scrubbed, resilvered: Tally) -> None:
    for finding in scrubbed.findings:
        print(finding)
    counters = scrubbed.counters
    print(f"{counters.files} files verified, {counters.copies} copies, {size(counters.size_bytes)};", end=" ")
    print(f"{counters.healed} healed, {counters.unhealed} not healed, {counters.lost} lost", end="")
    print(f", {counters.not_reached} copies not reached" if counters.not_reached else "")
    if not resilvered.is_idle:
        print(_told(resilvered))


# -- moving ----------------------------------------------------------------------------------------------------------


def resilver(arguments: Namespace) -> None:
    _report(arguments, _work(arguments, "resilver"))


def rebalance(arguments: Namespace) -> None:
    _report(arguments, _work(arguments, "rebalance", "tier"))


def _work(arguments: Namespace, *goals: Goal) -> Tally:
    """The last goal has the last word."""
    progress = Progress()

    async def work() -> Tally:
        async with _opened(arguments) as pool:
            mover = _mover(arguments, pool, goals[0], progress)
            total = Tally()
            for goal in goals:
                done = await mover.work(goal)
                total.files += done.files
                total.written_bytes += done.written_bytes
                total.dropped_copies += done.dropped_copies
                total.problems += done.problems
            return total

    try:
        return run(work)
    finally:
        progress.end()


def remove(arguments: Namespace) -> None:
    if arguments.force and not arguments.lost:
        raise BadInput("--force goes with --lost: a backend that is there is never removed before its data has moved")
    progress = Progress()
    try:
        _report(arguments, run(_remove, arguments, progress))
    finally:
        progress.end()


async def _remove(arguments: Namespace, progress: Progress) -> Tally:
    async with _opened(arguments) as pool:
        row = find_backend(pool, arguments.backend)
        if arguments.cancel:
            await trio.to_thread.run_sync(pool.catalog.set_backend_state, row.id, "online")
            await pool.backup()
            return Tally()
        mover = _mover(arguments, pool, "remove", progress)
        cut = cut_of(pool, environment(), holder(f"pool remove {pool.name}"))
        if not arguments.lost:
            return await evacuate(mover, row, cut)
        total, lost = await give_up(mover, row, cut, arguments.force)
        for name in lost:
            print(f"lost: {name}", file=sys.stderr)
        resilvered = await mover.work("resilver")
        total.files += resilvered.files
        total.written_bytes += resilvered.written_bytes
        total.problems = resilvered.problems
        return total


def _report(arguments: Namespace, tally: Tally) -> None:
    if arguments.json:
        print_json(_facts(tally))
    else:
        print(_told(tally))
    _refuse_problems(tally)


def _facts(tally: Tally) -> Facts:
    return {
        "files": tally.files, "written_bytes": tally.written_bytes, "dropped_copies": tally.dropped_copies,
        "problems": tally.problems,
    }  # fmt: skip


def _told(tally: Tally) -> str:
    if not tally.files:
        return "nothing had to move"
    return f"{tally.files} files: {size(tally.written_bytes)} written, {tally.dropped_copies} copies given up"


def _refuse_problems(tally: Tally) -> None:
    """Exit 1."""
    if tally.problems:
        error = NoSpace if "no place" in tally.problems[0] else BackendError
        raise error(f"{len(tally.problems)} files are not as they should be: {tally.problems[0]}")
