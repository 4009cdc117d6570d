"""`sds list`: datasets and snapshots of one pool or all."""

from argparse import Namespace

from sds.cli.facts import Facts, facts_of
from sds.cli.output import print_json, print_table, size
from sds.cli.session import catalog_of, home_of
from sds.core.errors import BadInput, Missing
from sds.core.names import parse_pool, parse_target
from sds.core.units import shown

KINDS = ("volume", "fs", "snapshot")


def show(arguments: Namespace) -> None:
    kinds = _kinds(arguments.type)
    home = home_of(arguments)
    prefix, pools = "", home.pool_names()
    if arguments.target is not None:
        pool, slash, _ = arguments.target.partition("/")
        pools = [parse_pool(pool)]
        prefix = str(parse_target(arguments.target)) if slash else ""
    found: list[Facts] = []
    for name in pools:
        with catalog_of(home, name) as catalog:
            found += [facts for facts in facts_of(home, catalog) if _is_below(facts["name"], prefix)]
    if prefix and not found:
        raise Missing(f"there is no {prefix}: `sds list` shows what there is")
    found = [facts for facts in found if facts["kind"] in kinds]
    if arguments.json:
        print_json(found)
    else:
        _print(found)


def _is_below(name: str, prefix: str) -> bool:
    return not prefix or name == prefix or name.startswith(prefix + "@")


def _kinds(text: str | None) -> tuple[str, ...]:
    chosen = KINDS if text is None else tuple(text.split(","))
    for kind in chosen:
        if kind not in KINDS:
            raise BadInput(f"-t {shown(kind)}: use {', '.join(KINDS)}, joined by commas")
    return chosen


def _print(found: list[Facts]) -> None:
    rows = []
    for facts in found:
        state = facts["holder"] or "-"
        if facts.get("error"):
            state = f"FAILED: {facts['error']}"
        stored, written = facts.get("stored_bytes"), facts.get("written_bytes")
        limit = facts.get("quota_bytes") or facts["size_bytes"] or None  # a filesystem has no size of its own
        counts = [size(limit), size(facts["used_bytes"]), size(stored), size(written)]
        rows.append([facts["name"], facts["kind"], *counts, str(facts.get("snapshots", "-")), state])
    print_table(["NAME", "KIND", ">SIZE", ">USED", ">STORED", ">WRITTEN", ">SNAPSHOTS", "IN USE BY"], rows)
