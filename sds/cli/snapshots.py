"""`sds snapshot|clone|rollback`.

The engine is imported where the long way is taken: a worker answers in milliseconds, importing takes longer.
"""

from argparse import Namespace

from sds.cli.output import print_json
from sds.cli.session import environment, holder, home_of, open_named, run
from sds.core.errors import BadInput
from sds.core.names import Target, parse_dataset, parse_snapshot
from sds.daemon.asking import ask_worker


def snapshot(arguments: Namespace) -> None:
    target = parse_snapshot(arguments.target)
    made = ask_worker(home_of(arguments), target, "snapshot", name=target.snapshot)
    if made is None:
        made = run(_operate, arguments, target, "snapshot")
    if arguments.json:
        print_json(made)


async def _operate(arguments: Namespace, target: Target, op: str) -> object:
    from sds.daemon.operate import operate

    async with open_named(home_of(arguments), target.pool) as pool:
        row = pool.catalog.dataset(target.dataset)
        if op == "rollback":
            pool.catalog.snapshot(row.id, target.snapshot or "")  # before anything is opened
        return await operate(pool, row, environment(), holder(f"{op} {target}"), op, name=target.snapshot)


def clone(arguments: Namespace) -> None:
    target, new = parse_snapshot(arguments.target), parse_dataset(arguments.new)
    if target.pool != new.pool:
        raise BadInput(f"{new} is in another pool than {target}: a clone shares data, so it stays in {target.pool}")
    made = ask_worker(home_of(arguments), target, "clone", name=target.snapshot, new=new.dataset)
    if made is None:
        made = run(_clone, arguments, target, new)
    if arguments.json:
        print_json(made)


async def _clone(arguments: Namespace, target: Target, new: Target) -> object:
    from sds.daemon.worker import finished_snapshot

    async with open_named(home_of(arguments), target.pool) as pool:
        row = pool.catalog.dataset(target.dataset)
        me = holder(f"clone {target}")
        origin = await finished_snapshot(pool, row, target.snapshot or "", environment(), me)
        with pool.hold_snapshot(row, origin, me, shared=True):
            pool.catalog.create_dataset(new.dataset, row.kind, origin.size_bytes, row.properties, origin)
        await pool.backup()
    return {"name": new.dataset, "elapsed_ms": None}


def rollback(arguments: Namespace) -> None:
    target = parse_snapshot(arguments.target)
    run(_operate, arguments, target, "rollback")
