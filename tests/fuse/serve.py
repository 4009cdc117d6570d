"""`python -m tests.fuse.serve tree|raw MOUNTPOINT [-o OPTIONS]`: something in memory, mounted until told to end.

Prints `ready`, then answers each line of stdin, a JSON list of a command and its arguments, with a line of JSON.
At the end of the mount it prints `ended` and exits with 0; an error of sds is the last line and exit code 1.
"""

import argparse
import json
import logging
import os
import sys
from typing import Any

import trio

from fuse.handler import Handlers
from fuse.memory import keep_large_buffers
from fuse.mount import Mount
from fuse.operations import Operations
from fuse.options import Options, parsed
from fuse.rawfile import RawFile
from fuse.tree import Tree
from sds.core.errors import SdsError
from sds.filesystem.attributes import Owner
from tests.fuse.memory_tree import MemoryTree
from tests.nbd.memory_device import MemoryDevice


class Served:
    def __init__(self, mount: Mount, tree: Tree, operations: Operations, nursery: trio.Nursery) -> None:
        self._mount = mount
        self._tree = tree
        self._operations = operations
        self._nursery = nursery

    async def answer(self, command: str, *arguments: Any) -> Any:
        match command:
            case "counts":
                return {name: int(numbers["count"]) for name, numbers in self._operations.handlers.metrics().items()}
            case "stop":
                await self._mount.stop(force=arguments[0])
            case "cancel":
                self._nursery.cancel_scope.cancel()
            case "second":
                await Mount(self._operations, arguments[0], Options(fsname="memory/second")).serve()
            case "invalidate_inode":
                await self._mount.invalidate_inode(*arguments)
            case "invalidate_entry":
                await self._mount.invalidate_entry(arguments[0], arguments[1].encode(), *arguments[2:])
            case _:
                return await self._of_tree(command, arguments)
        return None

    async def _of_tree(self, command: str, arguments: tuple[Any, ...]) -> Any:
        """What happens behind the back of the kernel, and what it left here."""
        tree = self._tree
        assert isinstance(tree, MemoryTree)
        match command:
            case "wait-for-hang":
                await tree.hangs.wait()
            case "fill":
                tree.fill(1, [f"{arguments[0]}{number:05d}".encode() for number in range(arguments[1])])
            case "limits":
                limits, tree.limits = tree.limits, []
                return limits
            case "poke":
                tree.nodes[tree.nodes[1].names[arguments[0].encode()]].data[:] = arguments[1].encode()
            case "rename":
                tree._enter(1, arguments[1].encode(), tree._leave(1, arguments[0].encode()))
            case "volatile":
                tree.volatile.add(arguments[0])
            case "data":
                return tree.nodes[tree.nodes[1].names[arguments[0].encode()]].data.decode("latin-1")
            case "state":
                return {"nodes": len(tree.nodes), "opens": sum(node.opens for node in tree.nodes.values())} | {
                    "syncs": tree.syncs,
                    "forgotten": len(tree.forgotten),
                }
            case _:
                raise AssertionError(command)
        return None


    async def commands(self) -> None:
        """Each is a task of its own: one that waits does not hold up the next."""
        while line := await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
            self._nursery.start_soon(self._command, *json.loads(line))

    async def _command(self, command: str, *arguments: Any) -> None:
        try:
            reply = await self.answer(command, *arguments)
        except SdsError as error:
            reply = {"error": str(error)}
        print(json.dumps(reply), flush=True)


def _made(args: argparse.Namespace) -> Tree:
    if args.what == "tree":
        return MemoryTree()
    return RawFile(MemoryDevice(args.size), "vm1", Owner(os.getuid(), os.getgid()))


async def _main(args: argparse.Namespace) -> None:
    if not args.plain_malloc:
        keep_large_buffers()
    options = parsed(Options(fsname="memory/fs"), args.options)
    tree = _made(args)
    access = logging.getLogger("access").info if args.access else None
    handlers = Handlers(slow_s=args.slow_s, access=access)
    operations = Operations(
        tree, handlers, writeback_cache=options.writeback_cache, acl=options.acl, xattrs=options.xattrs
    )
    mount = Mount(operations, args.mountpoint, options)
    async with trio.open_nursery() as nursery:

        async def serve(task_status: trio.TaskStatus[None]) -> None:
            await mount.serve(task_status)
            nursery.cancel_scope.cancel()

        await nursery.start(serve)
        print("ready", flush=True)
        nursery.start_soon(Served(mount, tree, operations, nursery).commands)
    if isinstance(tree, MemoryTree):
        logging.info("written %d", tree.written)
    print("ended", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["tree", "raw"])
    parser.add_argument("mountpoint")
    parser.add_argument("-o", dest="options", action="append", default=[])
    parser.add_argument("--size", type=int, default=64 << 20)
    parser.add_argument("--slow-s", type=float, default=5.0)
    parser.add_argument("--access", action="store_true")
    parser.add_argument("--plain-malloc", action="store_true")
    args = parser.parse_args()
    logging.basicConfig(level=logging.DEBUG if args.access else logging.INFO, stream=sys.stderr)
    said = ""
    try:
        trio.run(_main, args)
    except* SdsError as group:
        said = str(group.exceptions[0])
        print(said, flush=True)
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main())
