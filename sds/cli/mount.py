"""`sds mount`: a dataset as a directory. Without -f the work is done by the same verb in the background
(sds/cli/background.py), with -f right here.

  CM1  The line `mounted X on DIR` is printed when DIR can be used, and not before.
  CM2  In the background, whatever is said later goes to HOME/run/POOL:DS.log.
  CM3  Under a service manager that wants to know (NOTIFY_SOCKET, see sd_notify(3)) it is told, too.
"""

import contextlib
import os
import socket
from argparse import Namespace
from functools import partial
from pathlib import Path

from sds.cli.background import detach, start_in_background
from sds.cli.mount_options import MountOptions, parse_options
from sds.cli.session import environment, home_of, open_named, run
from sds.cli.settings import settings_of
from sds.core.names import Target, parse_target
from sds.daemon.mount_front import Place
from sds.daemon.mountinfo import resolved
from sds.daemon.mounting import mount_dataset
from sds.daemon.mountpoint import prepare
from sds.daemon.unmounting import has_worker, socket_of_mount
from sds.pool.home import Home


def start(arguments: Namespace) -> None:
    options = parse_options(arguments.options)
    if options.home is not None:
        arguments.home = options.home
    target, home = parse_target(arguments.target), home_of(arguments)
    settings_of(arguments)  # before anything is started
    if arguments.foreground:
        run(_mount, arguments, target, home, options)
    else:
        start_in_background(_in_foreground(arguments, target, home))


def _in_foreground(arguments: Namespace, target: Target, home: Home) -> list[str]:
    """The same command, with -f; it runs in another directory."""
    log = home.run_dir / f"{str(target).replace('/', ':')}.log"
    words = ["--home", str(home.path), "mount", "-f", "--log", str(log), "--stage-slots", str(arguments.stage_slots)]
    for text in arguments.options:
        words += ["-o", text]
    if arguments.access_log is not None:
        words += ["--access-log", os.path.abspath(arguments.access_log)]
    return [*words, "--", str(target), os.path.abspath(arguments.directory)]


async def _mount(arguments: Namespace, target: Target, home: Home, options: MountOptions) -> None:
    directory = resolved(arguments.directory)
    async with open_named(home, target.pool) as pool:
        row = pool.catalog.dataset(target.dataset)
        if target.snapshot is not None:
            pool.catalog.snapshot(row.id, target.snapshot)
        prepare(directory, partial(has_worker, home))
        place = Place(directory, options.for_target(target), socket_of_mount(home, directory), arguments.access_log)

        def announce(line: str) -> None:
            _announce(line, arguments.log)

        await mount_dataset(pool, row, target.snapshot, place, settings_of(arguments), environment(), announce)


def _announce(line: str, log: str | None) -> None:
    """CM1 to CM3."""
    print(line, flush=True)
    if log is not None:
        detach(Path(log))
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        _notify(address)


def _notify(address: str) -> None:
    """CM3. A leading @ is an abstract socket. Nobody listening is nothing to fail for."""
    name = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifier, contextlib.suppress(OSError):
        notifier.sendto(b"READY=1", name)
