"""`sds get|set`: properties of datasets.

| property | values         | meaning                                                    |
|----------|----------------|------------------------------------------------------------|
| compress | lz4, zstd, off | how blocks that are written from now on are compressed     |
"""

from argparse import Namespace

from sds.cli.output import print_json, print_table
from sds.cli.session import catalog_of, environment, holder, home_of, open_named, run
from sds.core.errors import BadInput
from sds.core.names import parse_dataset
from sds.core.units import shown
from sds.daemon.operate import operate, worker_socket

VALUES = {"compress": ("lz4", "zstd", "off")}
DEFAULTS = {"compress": "lz4"}


def get(arguments: Namespace) -> None:
    target = parse_dataset(arguments.target)
    if arguments.property is not None:
        _check_known(arguments.property)
    with catalog_of(home_of(arguments), target.pool) as catalog:
        row = catalog.dataset(target.dataset)
    names = [arguments.property] if arguments.property else list(VALUES)
    found = {name: row.properties.get(name, DEFAULTS[name]) for name in names}
    if arguments.json:
        print_json(found)
        return
    rows = [[name, value, "set" if name in row.properties else "default"] for name, value in found.items()]
    print_table(["PROPERTY", "VALUE", "SOURCE"], rows)


def change(arguments: Namespace) -> None:
    run(_change, arguments)


async def _change(arguments: Namespace) -> None:
    target = parse_dataset(arguments.target)
    wanted = dict(_parse(text) for text in arguments.settings)
    async with open_named(home_of(arguments), target.pool) as pool:
        row = pool.catalog.dataset(target.dataset)
        me = holder(f"set {target}")
        for name, value in wanted.items():
            if worker_socket(pool, row):
                await operate(pool, row, environment(), me, "set_property", key=name, value=value)
            else:
                pool.catalog.set_property(row.id, name, value)
        await pool.backup()


def _parse(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise BadInput(f"{shown(text)} sets nothing: write PROPERTY=VALUE")
    if value not in _check_known(name):
        raise BadInput(f"{name}={shown(value)}: use {', '.join(VALUES[name])}")
    return name, value


def _check_known(name: str) -> tuple[str, ...]:
    if name not in VALUES:
        raise BadInput(f"{shown(name)} is no property: there is {', '.join(VALUES)}")
    return VALUES[name]
