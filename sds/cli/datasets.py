"""`sds rename|destroy`: datasets and snapshots."""

from argparse import Namespace

from sds.cli.session import environment, holder, home_of, open_named, run
from sds.core.errors import BadInput
from sds.core.names import Target, check_name, parse_dataset, parse_snapshot, parse_target
from sds.daemon.cleaning import sweep_after
from sds.daemon.destroying import destroy_dataset, destroy_snapshot


def rename(arguments: Namespace) -> None:
    run(_rename, arguments)


async def _rename(arguments: Namespace) -> None:
    target = parse_target(arguments.target)
    new_name = _new_name(target, arguments.new)
    async with open_named(home_of(arguments), target.pool) as pool:
        row = pool.catalog.dataset(target.dataset)
        if target.snapshot is None:
            pool.catalog.rename_dataset(row.id, new_name)
        else:
            pool.catalog.rename_snapshot(pool.catalog.snapshot(row.id, target.snapshot).id, new_name)
        await pool.backup()


def _new_name(target: Target, text: str) -> str:
    """The last part of the new name, given alone (`@new` for a snapshot) or in full."""
    if target.snapshot is None:
        new = parse_dataset(text if "/" in text else f"{target.pool}/{text}")
        if new.pool != target.pool:
            raise BadInput(f"{new} is in another pool than {target}: a dataset stays in its pool")
        return new.dataset
    if "/" not in text:
        return check_name("snapshot", text.removeprefix("@"))
    new = parse_snapshot(text)
    if (new.pool, new.dataset) != (target.pool, target.dataset):
        raise BadInput(f"{new} is of another dataset than {target}: a snapshot stays with its dataset")
    return new.snapshot or ""


def destroy(arguments: Namespace) -> None:
    run(_destroy, arguments)


async def _destroy(arguments: Namespace) -> None:
    target = parse_target(arguments.target)
    async with open_named(home_of(arguments), target.pool) as pool:
        row = pool.catalog.dataset(target.dataset)
        env, me = environment(), holder(f"destroy {target}")
        if target.snapshot is not None:
            await destroy_snapshot(pool, row, target.snapshot, env, me)
        else:
            await destroy_dataset(pool, row, env, me, arguments.recursive, arguments.force)
        await sweep_after(pool, row.family, env, me)
