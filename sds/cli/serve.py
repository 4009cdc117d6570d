"""`sds serve`: a worker in the foreground."""

import os
from argparse import Namespace

from sds.cli.session import environment, home_of, open_named, run
from sds.cli.settings import settings_of
from sds.core.errors import BadInput
from sds.core.names import parse_target
from sds.daemon.nbd_front import Endpoint
from sds.daemon.serving import serve_volume

DEFAULT_PORT = 10809


def start(arguments: Namespace) -> None:
    run(_serve, arguments)


async def _serve(arguments: Namespace) -> None:
    target = parse_target(arguments.target)
    home = home_of(arguments)
    settings = settings_of(arguments)
    async with open_named(home, target.pool) as pool:
        row = pool.catalog.dataset(target.dataset)
        if row.kind != "volume":
            raise BadInput(f"{target} is a filesystem, and only volumes can be served: `sds mount {target} DIR`")
        default_path = str(home.run_dir / f"{str(target).replace('/', '-')}.nbd")
        endpoint = _endpoint(arguments, default_path, target.snapshot or target.dataset)
        await serve_volume(pool, row, target.snapshot, endpoint, settings, environment(), announce)


def announce(line: str) -> None:
    print(line, flush=True)


def _endpoint(arguments: Namespace, default_path: str, name: str) -> Endpoint:
    export = arguments.export_name or name
    if arguments.listen is None:
        return Endpoint(socket_path=os.path.abspath(arguments.socket or default_path), export_name=export)
    host, colon, port = arguments.listen.rpartition(":")
    if not colon:
        host, port = arguments.listen, str(DEFAULT_PORT)
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise BadInput(f"--listen {arguments.listen}: write HOST:PORT, with a port from 0 to 65535")
    return Endpoint(host=host.strip("[]") or "0.0.0.0", port=int(port), export_name=export)
