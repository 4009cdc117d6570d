"""The grammar of the command line: verbs, arguments, and which function runs them (`module:function` in sds.cli)."""

import argparse
from typing import Any

from sds.core.errors import BadInput

LATER = {
    "send": "replication", "receive": "replication", "promote": "replication", "replicate": "replication",
    "daemon": "the supervisor", "export": "the supervisor", "schedule": "the supervisor", "health": "the supervisor",
    "top": "the supervisor",
}  # fmt: skip


class _Parser(argparse.ArgumentParser):
    """Abbreviated options would break when new ones come."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)


class Verbs:
    """Subcommands of one parser."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._verbs = parser.add_subparsers(dest="verb", required=True)
        self._names: list[str] = []

    def add(self, name: str, run: str, text: str, *, lists: bool = False) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = self._verbs.add_parser(name, help=text, description=text)
        self._show(name)
        parser.set_defaults(run=run)
        parser.add_argument("--home", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        if lists:
            parser.add_argument("--json", action="store_true", help="for programs: bytes, one JSON value")
        return parser

    def add_later(self, name: str, what: str) -> None:
        """Known, so that the message is a good one, but not shown."""
        parser = self._verbs.add_parser(name)
        parser.set_defaults(run="later:refuse", what=what)
        parser.add_argument("rest", nargs=argparse.REMAINDER)

    def _show(self, name: str) -> None:
        self._names.append(name)
        self._verbs.metavar = "{" + ",".join(self._names) + "}"

    def group(self, name: str, text: str) -> "Verbs":
        self._show(name)
        return Verbs(self._verbs.add_parser(name, help=text, description=text))


def build_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="sds", description="Software-defined storage: pools, volumes, filesystems.")
    parser.add_argument("--home", help="where sds keeps its state (or SDS_HOME)")
    verbs = Verbs(parser)
    _pool_verbs(verbs.group("pool", "make and look after pools"))
    _volume_verbs(verbs.group("volume", "make and resize volumes"))
    _filesystem_verbs(verbs.group("fs", "make filesystems"))
    _dataset_verbs(verbs)
    _snapshot_verbs(verbs)
    _serve_verb(verbs)
    _mount_verbs(verbs)
    for name, what in LATER.items():
        verbs.add_later(name, what)
    return parser


def _pool_verbs(verbs: Verbs) -> None:
    create = verbs.add("create", "pools:create", "make a pool over directories, disks and object stores")
    create.add_argument("name", metavar="NAME")
    backends = "an empty directory, disk:/dev/sdX, or s3://bucket/prefix?endpoint_url=..."
    create.add_argument("backends", metavar="BACKEND", nargs="+", help=backends)
    create.add_argument("--force", action="store_true", help="also disks on which there is something already")
    create.add_argument("--copies", type=int, default=1, help="backends that keep each byte (1)")
    create.add_argument("--segment-size", default="32M", help="size of the files of the log (32M)")
    verbs.add("list", "pools:list_pools", "all pools", lists=True)
    status = verbs.add("status", "pools:status", "what a pool stores, and where", lists=True)
    status.add_argument("name", metavar="NAME", nargs="?")
    add = verbs.add("add", "pools:add", "take one more backend into a pool")
    add.add_argument("name", metavar="NAME")
    add.add_argument("backend", metavar="BACKEND")
    add.add_argument("--label", help="its failure domain: copies go to backends with different ones (its own)")
    add.add_argument("--tier", help="what the property place calls it (cold for object stores, else fast)")
    add.add_argument("--force", action="store_true", help="also a disk on which there is something already")
    imports = verbs.add("import", "pools:import_", "take over a pool that is known from its backends only")
    imports.add_argument("name", metavar="NAME")
    imports.add_argument("backends", metavar="BACKEND", nargs="+")
    imports.add_argument("--allow-missing", action="store_true", help="go on without backends that are lost")
    take = "even from a machine that uses it: what that one has not uploaded is lost"
    imports.add_argument("--force", action="store_true", help=take)
    export = verbs.add("export", "pools:export", "let go of a pool; its backends keep everything")
    export.add_argument("name", metavar="NAME")
    destroy = verbs.add("destroy", "pools:destroy", "delete a pool with all it stores")
    destroy.add_argument("name", metavar="NAME")
    destroy.add_argument("--force", action="store_true", help="even if it has datasets")
    clean = verbs.add("clean", "pools:clean", "give back the space of what was destroyed or overwritten", lists=True)
    clean.add_argument("name", metavar="NAME")
    clean.add_argument("--unknown", action="store_true", help="also segments of datasets that the catalog never knew")
    _maintenance_verbs(verbs)


def _maintenance_verbs(verbs: Verbs) -> None:
    scrub = verbs.add("scrub", "pool_maintenance:scrub", "verify every copy of everything, and heal", lists=True)
    scrub.add_argument("--all", action="store_true", help="also what a scrub that was interrupted has verified")
    resilver = verbs.add("resilver", "pool_maintenance:resilver", "bring the copies to their number", lists=True)
    rebalance = verbs.add("rebalance", "pool_maintenance:rebalance", "from full backends to empty ones", lists=True)
    remove = verbs.add("remove", "pool_maintenance:remove", "move all off a backend and let go of it", lists=True)
    for verb in (scrub, resilver, rebalance, remove):
        verb.add_argument("name", metavar="NAME")
        verb.add_argument("--rate", metavar="SIZE", default="100M", help="bytes per second (100M); 0: no limit")
    remove.add_argument("backend", metavar="BACKEND")
    remove.add_argument("--lost", action="store_true", help="it is gone for good: its copies are made anew from others")
    remove.add_argument("--force", action="store_true", help="with --lost: even if data that is nowhere else is lost")
    remove.add_argument("--cancel", action="store_true", help="keep a backend whose removal was interrupted")


def _volume_verbs(verbs: Verbs) -> None:
    create = verbs.add("create", "volumes:create", "make a thin volume")
    create.add_argument("target", metavar="POOL/VOL")
    create.add_argument("size", metavar="SIZE", help="20G, 512M, ...")
    create.add_argument("--compress", choices=("lz4", "zstd", "off"), help="lz4 if not given")
    resize = verbs.add("resize", "volumes:resize", "make a volume larger or smaller, also while it is served")
    resize.add_argument("target", metavar="POOL/VOL")
    resize.add_argument("size", metavar="SIZE")
    resize.add_argument("--force", action="store_true", help="even if data beyond the new end is lost")


def _filesystem_verbs(verbs: Verbs) -> None:
    create = verbs.add("create", "filesystems:create", "make a filesystem")
    create.add_argument("target", metavar="POOL/FS")
    create.add_argument("--compress", choices=("lz4", "zstd", "off"), help="lz4 if not given")
    create.add_argument("--quota", metavar="SIZE", help="what its files may occupy together; none if not given")


def _dataset_verbs(verbs: Verbs) -> None:
    listing = verbs.add("list", "listing:show", "datasets and snapshots", lists=True)
    listing.add_argument("target", metavar="POOL[/DS]", nargs="?")
    listing.add_argument("-t", "--type", metavar="KIND,...", help="volume, fs, snapshot")
    get = verbs.add("get", "properties:get", "properties of a dataset", lists=True)
    get.add_argument("target", metavar="POOL/DS")
    get.add_argument("property", metavar="PROPERTY", nargs="?")
    change = verbs.add("set", "properties:change", "set properties of a dataset")
    change.add_argument("target", metavar="POOL/DS")
    change.add_argument("settings", metavar="PROPERTY=VALUE", nargs="+")
    rename = verbs.add("rename", "datasets:rename", "give a dataset or a snapshot another name")
    rename.add_argument("target", metavar="POOL/DS[@SNAP]")
    rename.add_argument("new", metavar="NEW")
    destroy = verbs.add("destroy", "datasets:destroy", "delete a dataset or a snapshot")
    destroy.add_argument("target", metavar="POOL/DS[@SNAP]")
    destroy.add_argument("-r", "--recursive", action="store_true", help="with its snapshots")
    destroy.add_argument("--force", action="store_true", help="even if it is being served: the server is ended")


def _snapshot_verbs(verbs: Verbs) -> None:
    snapshot = verbs.add("snapshot", "snapshots:snapshot", "keep the present state of a dataset", lists=True)
    snapshot.add_argument("target", metavar="POOL/DS@SNAP")
    clone = verbs.add("clone", "snapshots:clone", "make a dataset from a snapshot", lists=True)
    clone.add_argument("target", metavar="POOL/DS@SNAP")
    clone.add_argument("new", metavar="POOL/NEW")
    rollback = verbs.add("rollback", "snapshots:rollback", "make a dataset what the snapshot is")
    rollback.add_argument("target", metavar="POOL/DS@SNAP")
    diff = verbs.add("diff", "diff:show", "what changed since a snapshot, or between two", lists=True)
    diff.add_argument("target", metavar="POOL/DS@A")
    diff.add_argument("other", metavar="POOL/DS@B", nargs="?", help="the present state if not given")


def _serve_verb(verbs: Verbs) -> None:
    serve = verbs.add("serve", "serve:start", "serve a volume or a snapshot over NBD until interrupted")
    serve.add_argument("target", metavar="POOL/VOL[@SNAP]")
    place = serve.add_mutually_exclusive_group()
    place.add_argument("--socket", metavar="PATH", help="a unix socket")
    place.add_argument("--listen", metavar="HOST:PORT", help="a TCP port; 0 chooses one")
    serve.add_argument("--export-name", metavar="NAME", help="the volume's name if not given")
    _add_stage_slots(serve)


def _mount_verbs(verbs: Verbs) -> None:
    mount = verbs.add("mount", "mount:start", "mount a filesystem, or a volume as one file, on a directory")
    mount.add_argument("target", metavar="POOL/DS[@SNAP]")
    mount.add_argument("directory", metavar="DIR")
    mount.add_argument("-f", "--foreground", action="store_true", help="stay in the foreground until interrupted")
    mount.add_argument(
        "-o", dest="options", metavar="OPTION,...", action="append", default=[], type=_mount_option,
        help="ro, allow_other, noatime, nosuid, nodev, noexec, writeback, home=DIR, ...",
    )  # fmt: skip
    mount.add_argument("--access-log", metavar="FILE", help="one line for every request")
    mount.add_argument("--log", metavar="FILE", help="with -f: where messages go once it is mounted")
    _add_stage_slots(mount)
    unmount = verbs.add("unmount", "unmount:start", "unmount, and wait until everything is durable and closed")
    unmount.add_argument("target", metavar="DIR|POOL/DS[@SNAP]")


def _mount_option(text: str) -> str:
    from sds.cli.mount_options import parse_options

    try:
        parse_options([text])
    except BadInput as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def _add_stage_slots(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--stage-slots", metavar="N", type=int, default=8, help="segments in memory (8)")
