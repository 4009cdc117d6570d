"""`sds pool create|list|status|add|import|export|destroy|clean`."""

import sys
from argparse import Namespace
from contextlib import suppress
from typing import Any

from backends.registry import connect
from sds.cli.facts import pool_facts
from sds.cli.output import print_json, print_table, size
from sds.cli.risk_facts import risk_lines
from sds.cli.session import clock, environment, holder, home_of, open_named, run
from sds.core.errors import BadInput, Fenced
from sds.core.names import check_name, parse_pool
from sds.core.units import parse_size
from sds.daemon.cleaning import clean_pool, remove_orphans, remove_stage, sweep_pool
from sds.daemon.destroying import recover
from sds.daemon.ownership import owned
from sds.dataset.adopt import adopt_newest
from sds.pool.create import add_backend, create_pool
from sds.pool.home import Home
from sds.pool.label import read_label
from sds.pool.places import canonical_url
from sds.pool.pool import open_pool
from sds.pool.transfer import destroy_pool, export_pool, import_pool


def create(arguments: Namespace) -> None:
    run(_create, arguments)


async def _create(arguments: Namespace) -> None:
    pool = await create_pool(
        home_of(arguments), parse_pool(arguments.name), arguments.backends, connect, clock,
        arguments.copies, parse_size(arguments.segment_size), arguments.force,
    )  # fmt: skip
    await pool.close()


def add(arguments: Namespace) -> None:
    run(_add, arguments)


async def _add(arguments: Namespace) -> None:
    async with open_named(home_of(arguments), parse_pool(arguments.name)) as pool:
        tier = check_name("tier", arguments.tier) if arguments.tier else ""
        await add_backend(pool, arguments.backend, connect, clock, arguments.label or "", tier, arguments.force)


def import_(arguments: Namespace) -> None:
    for line in run(_import, arguments):
        print(line)


async def _import(arguments: Namespace) -> list[str]:
    """The name is checked before anything is done: it says which pool is meant."""
    name = parse_pool(arguments.name)
    for url in arguments.backends:
        await _check_belongs(url, name)
    imported = await import_pool(
        home_of(arguments), arguments.backends, connect, clock, arguments.allow_missing, arguments.force, say
    )
    try:
        for dataset in imported.pool.catalog.datasets():
            await adopt_newest(imported.pool, dataset, environment())
        await imported.pool.backup()
    finally:
        await imported.pool.close()
    lines = list(imported.told)
    if imported.left_out:
        count = len(imported.left_out)
        lines.append(f"{count} segments on the backends belong to no dataset of the catalog; they were left alone")
    return lines


def say(line: str) -> None:
    """At once, beside what the command prints in the end."""
    print(f"sds: {line}", file=sys.stderr, flush=True)


async def _check_belongs(url: str, name: str) -> None:
    backend = connect(canonical_url(url), None)
    try:
        label = await read_label(backend)
    finally:
        await backend.close()
    if label.name != name:
        raise BadInput(f"backend {url} belongs to pool {label.name}, not to {name}: say which one you mean")


def export(arguments: Namespace) -> None:
    run(_export, arguments)


async def _export(arguments: Namespace) -> None:
    name = parse_pool(arguments.name)
    pool = await open_pool(home_of(arguments), name, connect)
    try:
        me = holder(f"pool export {name}")
        with suppress(Fenced):  # export_pool tells
            for row in pool.catalog.datasets():
                await recover(pool, row, environment(), me)
        lost = await export_pool(pool, me)
    except BaseException:
        await pool.close()
        raise
    if lost is not None:
        say(f"pool {name} is forgotten here, its backends are as they were: {lost}")


def destroy(arguments: Namespace) -> None:
    run(_destroy, arguments)


async def _destroy(arguments: Namespace) -> None:
    name = parse_pool(arguments.name)
    pool = await open_pool(home_of(arguments), name, connect)
    try:
        rows = pool.catalog.datasets()
        await destroy_pool(pool, holder(f"pool destroy {name}"), arguments.force)
    except BaseException:
        await pool.close()
        raise
    for row in rows:
        remove_stage(environment(), pool, row.id)


def list_pools(arguments: Namespace) -> None:
    home = home_of(arguments)
    found = [run(_status_of, home, name) for name in home.pool_names()]
    if arguments.json:
        print_json(found)
        return
    rows = [
        [facts["name"], facts["state"], str(len(facts["backends"])), str(facts["copies"]), str(facts["datasets"]),
         size(facts["stored_bytes"]), size(facts["free_bytes"])]
        for facts in found
    ]  # fmt: skip
    print_table(["NAME", "STATE", ">BACKENDS", ">COPIES", ">DATASETS", ">STORED", ">FREE"], rows)


def status(arguments: Namespace) -> None:
    home = home_of(arguments)
    names = [parse_pool(arguments.name)] if arguments.name else home.pool_names()
    found = [run(_status_of, home, name) for name in names]
    if arguments.json:
        print_json(found[0] if arguments.name else found)
        return
    for facts in found:
        _print_status(facts)


async def _status_of(home: Home, name: str) -> dict[str, Any]:
    pool = await open_pool(home, name, connect, allow_missing=True)
    try:
        return pool_facts(pool)
    finally:
        await pool.close()


def _print_status(facts: dict[str, Any]) -> None:
    print(f"pool {facts['name']}: {facts['state']}, {facts['copies']} copies, {facts['datasets']} datasets,", end=" ")
    print(f"{facts['snapshots']} snapshots, uuid {facts['uuid']}")
    print(f"  logical {size(facts['size_bytes'])}, used {size(facts['used_bytes'])},", end=" ")
    print(f"stored {size(facts['stored_bytes'])} (all copies), free {size(facts['free_bytes'])}")
    rows = [
        [backend["url"], backend["state"], size(backend["stored_bytes"]), size(backend["free_bytes"]),
         size(backend["total_bytes"]), backend["error"] or ""]
        for backend in facts["backends"]
    ]  # fmt: skip
    print_table(["BACKEND", "STATE", ">STORED", ">FREE", ">TOTAL", ""], rows)
    for line in risk_lines(facts):
        print(f"  {line}")


def clean(arguments: Namespace) -> None:
    found = run(_clean, arguments)
    if arguments.json:
        print_json(found)
        return
    print(f"{size(found['swept_bytes'])} swept, {size(found['cleaned_bytes'])} cleaned,", end=" ")
    print(f"{size(found['orphan_bytes'])} of orphaned files deleted")
    for problem in found["problems"]:
        print(f"orphaned files were not looked for: {problem}")
    if found["waiting_files"]:
        print(f"{found['waiting_files']} orphaned files in object stores go when they are found again in an hour")
    if found["unknown_files"]:
        count = found["unknown_files"]
        print(f"{count} files are of datasets that the catalog never knew: --unknown deletes them, too")


async def _clean(arguments: Namespace) -> dict[str, Any]:
    name = parse_pool(arguments.name)
    async with open_named(home_of(arguments), name) as pool:
        me = holder(f"pool clean {name}")
        async with owned(pool, me, environment()):
            swept_bytes = await sweep_pool(pool, environment(), me)
            cleaned_bytes = await clean_pool(pool, environment(), me)
            orphans = await remove_orphans(pool, environment(), me, arguments.unknown)
    return {
        "swept_bytes": swept_bytes, "cleaned_bytes": cleaned_bytes, "orphan_bytes": orphans.size_bytes,
        "orphan_files": orphans.files, "unknown_files": orphans.unknown_files, "waiting_files": orphans.waiting_files,
        "problems": orphans.problems,
    }  # fmt: skip
