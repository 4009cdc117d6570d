"""`sds fs create`."""

from argparse import Namespace

from sds.cli.properties import parse_quota
from sds.cli.session import home_of, open_named, run
from sds.core.names import parse_dataset


def create(arguments: Namespace) -> None:
    run(_create, arguments)


async def _create(arguments: Namespace) -> None:
    target = parse_dataset(arguments.target)
    properties = {"compress": arguments.compress} if arguments.compress else {}
    quota = parse_quota(arguments.quota) if arguments.quota is not None else None
    if quota is not None:
        properties["quota"] = quota
    async with open_named(home_of(arguments), target.pool) as pool:
        pool.catalog.create_dataset(target.dataset, "fs", 0, properties)
        await pool.backup()
