"""`sds get|set`: properties of datasets.

| property | values         | of             | meaning                                                |
|----------|----------------|----------------|--------------------------------------------------------|
| compress | lz4, zstd, off | all            | how blocks that are written from now on are compressed |
| quota    | SIZE, none     | filesystems    | what its files may occupy together                     |
| copies   | 1 to 16, pool  | all            | see sds/pool/policy.py, as the next two                |
| place    | TIER,..., any  | all            |                                                        |
| flush    | journal, backend | all          |                                                        |

The catalog keeps a quota as its bytes in decimal; none, pool and any are the absence of the property.
"""

from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sds.cli.output import print_json, print_table
from sds.cli.session import catalog_of, environment, holder, home_of, kind_name, open_named, run
from sds.core.errors import BadInput
from sds.core.names import check_name, parse_dataset
from sds.core.units import format_size, parse_size, shown
from sds.daemon.operate import operate, worker_socket
from sds.pool.create import COPIES_MAX
from sds.pool.rows import DatasetKind, DatasetRow

COMPRESS: Final = ("lz4", "zstd", "off")
QUOTA_BYTES_MIN: Final = 1 << 20
TIERS_MAX: Final = 4


@dataclass(frozen=True, slots=True)
class Property:
    parse: Callable[[str], str | None]
    """What the user wrote -> what the catalog keeps; None: the property goes, the default counts."""
    show: Callable[[str | None], str]
    value: Callable[[str | None], object]
    """For programs."""
    kinds: tuple[DatasetKind, ...] = ("volume", "fs")


def parse_quota(text: str) -> str | None:
    if text == "none":
        return None
    size_bytes = parse_size(text)
    if size_bytes < QUOTA_BYTES_MIN:
        raise BadInput(f"quota={shown(text)}: use {format_size(QUOTA_BYTES_MIN)} or more, or none")
    return str(size_bytes)


def _parse_compress(text: str) -> str:
    if text not in COMPRESS:
        raise BadInput(f"compress={shown(text)}: use {', '.join(COMPRESS)}")
    return text


def _parse_copies(text: str) -> str | None:
    if text == "pool":
        return None
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text[:3]) <= COPIES_MAX or len(text) > 2:
        raise BadInput(f"copies={shown(text)}: use 1 to {COPIES_MAX}, or pool")
    return str(int(text))


def _parse_place(text: str) -> str | None:
    if text == "any":
        return None
    tiers = text.split(",")
    if len(set(tiers)) < len(tiers) or len(tiers) > TIERS_MAX:
        raise BadInput(f"place={shown(text)}: name up to {TIERS_MAX} different tiers, the fastest first, or any")
    return ",".join(check_name("tier", tier) for tier in tiers)


def _parse_flush(text: str) -> str | None:
    if text not in ("journal", "backend"):
        raise BadInput(f"flush={shown(text)}: use journal or backend")
    return None if text == "journal" else text


PROPERTIES: Final = {
    "compress": Property(_parse_compress, lambda kept: kept or "lz4", lambda kept: kept or "lz4"),
    "quota": Property(
        parse_quota,
        lambda kept: format_size(int(kept), exact=True) if kept else "none",
        lambda kept: int(kept) if kept else None,
        ("fs",),
    ),
    "copies": Property(_parse_copies, lambda kept: kept or "pool", lambda kept: int(kept) if kept else None),
    "place": Property(_parse_place, lambda kept: kept or "any", lambda kept: kept.split(",") if kept else []),
    "flush": Property(_parse_flush, lambda kept: kept or "journal", lambda kept: kept or "journal"),
}


def get(arguments: Namespace) -> None:
    target = parse_dataset(arguments.target)
    if arguments.property is not None:
        _known(arguments.property)
    with catalog_of(home_of(arguments), target.pool) as catalog:
        row = catalog.dataset(target.dataset)
    names = [name for name, one in PROPERTIES.items() if row.kind in one.kinds]
    if arguments.property is not None:
        names = [arguments.property]
        _check_has(row, arguments.property)
    if arguments.json:
        print_json({name: PROPERTIES[name].value(row.properties.get(name)) for name in names})
        return
    rows = [
        [name, PROPERTIES[name].show(row.properties.get(name)), "set" if name in row.properties else "default"]
        for name in names
    ]
    print_table(["PROPERTY", "VALUE", "SOURCE"], rows)


def change(arguments: Namespace) -> None:
    run(_change, arguments)


async def _change(arguments: Namespace) -> None:
    target = parse_dataset(arguments.target)
    wanted = dict(_parse(text) for text in arguments.settings)
    async with open_named(home_of(arguments), target.pool) as pool:
        row = pool.catalog.dataset(target.dataset)
        for name in wanted:
            _check_has(row, name)
        me = holder(f"set {target}")
        for name, value in wanted.items():
            if worker_socket(pool, row):
                await operate(pool, row, environment(), me, "set_property", key=name, value=value)
            else:
                pool.catalog.set_property(row.id, name, value)
        await pool.backup()


def _parse(text: str) -> tuple[str, str | None]:
    name, equals, value = text.partition("=")
    if not equals:
        raise BadInput(f"{shown(text)} sets nothing: write PROPERTY=VALUE")
    return name, _known(name).parse(value)


def _known(name: str) -> Property:
    if name not in PROPERTIES:
        raise BadInput(f"{shown(name)} is no property: there is {', '.join(PROPERTIES)}")
    return PROPERTIES[name]


def _check_has(row: DatasetRow, name: str) -> None:
    if row.kind not in PROPERTIES[name].kinds:
        raise BadInput(f"{row.name} is a {kind_name(row.kind)} and has no {name}")
