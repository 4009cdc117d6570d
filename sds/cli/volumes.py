"""`sds volume create|resize`."""

from argparse import Namespace

from sds.cli.session import environment, holder, home_of, open_named, run
from sds.core.errors import BadInput
from sds.core.names import parse_dataset
from sds.core.units import parse_size
from sds.daemon.operate import operate
from sds.volume.limits import check_size


def create(arguments: Namespace) -> None:
    run(_create, arguments)


async def _create(arguments: Namespace) -> None:
    target = parse_dataset(arguments.target)
    size_bytes = check_size(parse_size(arguments.size))
    properties = {"compress": arguments.compress} if arguments.compress else {}
    async with open_named(home_of(arguments), target.pool) as pool:
        pool.catalog.create_dataset(target.dataset, "volume", size_bytes, properties)
        await pool.backup()


def resize(arguments: Namespace) -> None:
    run(_resize, arguments)


async def _resize(arguments: Namespace) -> None:
    target = parse_dataset(arguments.target)
    size_bytes = check_size(parse_size(arguments.size))
    async with open_named(home_of(arguments), target.pool) as pool:
        row = pool.catalog.dataset(target.dataset)
        if row.kind != "volume":
            raise BadInput(f"{target} is a filesystem and has no size: `sds set {target} quota=SIZE` limits it")
        await operate(
            pool, row, environment(), holder(f"volume resize {target}"), "resize",
            size_bytes=size_bytes, force=arguments.force,
        )  # fmt: skip
