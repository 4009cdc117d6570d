"""Asking a worker, the short way: catalog and control socket, no backends, no event loop. For commands that ought to
take milliseconds on a dataset that is open, which is when it matters.
"""

from pathlib import Path
from typing import Any

from sds.core.names import Target
from sds.daemon.control_client import NoWorker, call
from sds.pool.catalog import Catalog
from sds.pool.home import Home
from sds.pool.lease import holders


def ask_worker(home: Home, target: Target, op: str, **arguments: Any) -> object | None:
    """The result; None if nobody has the dataset open for service: then it takes the long way (operate)."""
    catalog = Catalog.open(home.catalog_path(target.pool))
    try:
        lock = home.lock_path(catalog.pool().uuid, catalog.dataset(target.dataset).id)
    finally:
        catalog.close()
    for holder in holders(lock):
        if holder.socket:
            try:
                return call(Path(holder.socket), op, **arguments)
            except NoWorker:
                return None  # it is starting, or ending
    return None
