"""`python -m tests.nbd.serve_memory --socket PATH --size BYTES`: a device in memory, served until SIGTERM."""

import argparse
import logging
import signal

import trio

from sds.nbd.listeners import listen_unix
from sds.nbd.server import Server
from tests.nbd.memory_device import MemoryDevice


async def _main(args: argparse.Namespace) -> None:
    device = MemoryDevice(args.size, read_only=args.read_only, patience=args.patience)
    if args.bitmap:
        device.snapshot(args.bitmap)
    server = Server(device, export_name=args.name, description="in memory")
    listener = listen_unix(args.socket)
    logging.info("serving %s", args.socket)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_stop_on_signal, server)
        await server.serve([listener])
        nursery.cancel_scope.cancel()


async def _stop_on_signal(server: Server) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--socket", required=True)
    parser.add_argument("--size", type=int, default=64 << 20)
    parser.add_argument("--name", default="memory")
    parser.add_argument("--patience", type=int, default=0)
    parser.add_argument("--bitmap")
    parser.add_argument("--read-only", action="store_true")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    trio.run(_main, args)


if __name__ == "__main__":
    main()
