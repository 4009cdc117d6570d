"""Moving files of a pool on behalf of a command: resilver, rebalance, tier, and taking a backend out of a pool.

  EV1  Everything that can refuse a removal is looked at before anything moves: the last backend, too few failure
       domains, too little room elsewhere.
  EV2  A backend that leaves is `draining` first: nothing new is placed there. Then those who have segments open there
       go on elsewhere (workers are asked to cut their logs; datasets that a killed worker left are recovered), what
       is sealed moves, and when no row lists it any more it is let go.
  EV3  Cut off at any point, it goes on where it was when it is asked for again.
  EV4  A lost backend is given up file by file, each time with another copy verified (MV1 of sds.maintenance.moving).
       Files that have no other copy are listed, and given up only by force.
"""

from collections.abc import Awaitable, Callable, Sequence

from backends.preparing import DISK
from sds.core.errors import BackendError, BadInput, Missing, NoSpace
from sds.core.units import format_size
from sds.maintenance.mover import PASSES_MAX, Mover, Tally, add
from sds.pool.create import remove_backend
from sds.pool.files import StoredFile, files_of
from sds.pool.places import canonical_url
from sds.pool.policy import policy_of
from sds.pool.pool import Pool
from sds.pool.rows import BackendRow

Cut = Callable[[], Awaitable[None]]


def find_backend(pool: Pool, url: str) -> BackendRow:
    """As a user names it: as it is listed, or any other way to write it."""
    rows = pool.catalog.backends()
    for row in rows:
        if row.url in (url, canonical_url(url)) or (url.startswith(DISK) and row.url.partition("?")[0] == url):
            return row
    known = ", ".join(row.url for row in rows)
    raise Missing(f"{url} is no backend of pool {pool.name}; there are: {known}")


async def evacuate(mover: Mover, row: BackendRow, cut: Cut) -> Tally:
    """EV1, EV2, EV3. Afterwards the backend is no longer in the pool. `cut`: all who write go on elsewhere."""
    pool = mover.pool
    if row.id not in pool.backends:
        why = pool.missing.get(row.id, "it does not answer")
        raise BackendError(f"backend {row.url} is missing ({why}): bring it back, or say --lost if it is gone for good")
    check_domains(pool, row)
    await pool.check_newest()
    await _check_room(mover, row)
    await _start_draining(mover, row)
    total = await _drain(mover, row, cut)
    await remove_backend(pool, row.id)
    return total


async def give_up(mover: Mover, row: BackendRow, cut: Cut, force: bool) -> tuple[Tally, list[str]]:
    """EV4. The second: names of the files that are lost with it (by force)."""
    pool = mover.pool
    if row.id in pool.backends:
        raise BadInput(f"backend {row.url} is there: without --lost everything on it is moved away first")
    check_domains(pool, row)
    await pool.check_newest()
    sole = await _only_on(mover, row.id)
    elsewhere = sorted({copy for file in sole for copy in file.copies} & set(pool.missing) - {row.id})
    if elsewhere:
        urls = ", ".join(one.url for one in pool.catalog.backends() if one.id in elsewhere)
        text = _lost_text(pool, sole)
        raise BackendError(f"{text} on {row.url} and on {urls}, which is missing, too: bring that back first")
    if sole and not force:
        raise BackendError(f"{_lost_text(pool, sole)} only on {row.url}: bring it back, or lose that with --force")
    await _start_draining(mover, row)
    lost = [file.name for file in sole]
    await _forget(mover, row, sole)
    total = await _drain(mover, row, cut)
    await remove_backend(pool, row.id)
    return total, lost


def check_domains(pool: Pool, leaving: BackendRow) -> None:
    """EV1."""
    rows = [row for row in pool.catalog.backends() if row.id != leaving.id and row.state != "draining"]
    if not rows:
        raise BadInput(f"{leaving.url} is the last backend of pool {pool.name}: add another first, or destroy the pool")
    asked = [(pool.copies, f"pool {pool.name}")]
    asked += [(policy_of(row.properties, pool.copies).copies, row.name) for row in pool.catalog.datasets()]
    copies, who = max(asked, key=lambda one: one[0])
    domains = len({row.label for row in rows})
    if domains < copies:
        raise BadInput(f"{copies} copies ({who}) need {copies} failure domains, {domains} would be left: add one first")


async def _check_room(mover: Mover, row: BackendRow) -> None:
    """EV1."""
    found = await mover.plan("evacuate", leaving=[row.id])
    if found.stuck:
        missing = sum(stuck.file.size_bytes for stuck in found.stuck)
        raise NoSpace(
            f"{format_size(missing)} in {len(found.stuck)} files on {row.url} have no place elsewhere"
            f" ({found.stuck[0].why}): free space or add a backend"
        )


async def _start_draining(mover: Mover, row: BackendRow) -> None:
    await mover.env.run_blocking(mover.pool.catalog.set_backend_state, row.id, "draining")
    await mover.pool.backup()  # BK2


async def _drain(mover: Mover, row: BackendRow, cut: Cut) -> Tally:
    """EV2. What was begun there while it was not draining yet may come up late: so in passes."""
    total = Tally()
    for _ in range(PASSES_MAX):
        await cut()
        found = await mover.plan("evacuate")
        done = await mover.carry_out(found.moves)
        done.problems += [f"{stuck.file.name}: {stuck.why}" for stuck in found.stuck]
        add(total, done)
        if not await _holds(mover, row.id):
            return total
    left = await _holds(mover, row.id)
    why = total.problems[0] if total.problems else "they are being written or moved all the time"
    raise BackendError(f"{left} segments are still on {row.url} ({why}): see to that, then remove it again")


async def _holds(mover: Mover, backend_id: int) -> int:
    rows = await mover.env.run_blocking(mover.pool.catalog.all_segments)
    return sum(backend_id in row.copies for row in rows)


async def _only_on(mover: Mover, backend_id: int) -> list[StoredFile]:
    """Files without a copy on any backend that answers."""
    rows = await mover.env.run_blocking(mover.pool.catalog.all_segments)
    backends = mover.pool.backends
    lost = [file for file in files_of(rows) if not any(copy in backends for copy in file.copies)]
    return [file for file in lost if backend_id in file.copies]


def _lost_text(pool: Pool, files: Sequence[StoredFile]) -> str:
    families = {file.family for file in files}
    names = [f"{pool.name}/{row.name}" for row in pool.catalog.datasets() if row.family in families]
    size = format_size(sum(file.size_bytes for file in files))
    return f"{size} in {len(files)} files ({files[0].name}, ...) of {', '.join(names) or 'destroyed datasets'} are"


async def _forget(mover: Mover, row: BackendRow, files: Sequence[StoredFile]) -> None:
    """By force. What refers to them gets errors from now on, never other data: ids are not used again."""
    if not files:
        return
    catalog = mover.pool.catalog
    text = f"{_lost_text(mover.pool, files)} lost with {row.url}, by force"
    await mover.env.run_blocking(catalog.add_event, "lost", text)
    ids = [segment.id for file in files for segment in file.rows]
    await mover.env.run_blocking(catalog.delete_segments, ids)
    await mover.pool.backup()
