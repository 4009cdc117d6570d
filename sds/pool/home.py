"""The home directory of sds on a machine: where everything local is. Mode 0700, for the pool's user only.

    HOME/pools/NAME/catalog.db          the catalog of a pool
    HOME/run/UUID-D.lock                lease on dataset D of the pool with that UUID (pool/lease.py)
    HOME/run/UUID-sS.lock               holds on snapshot S
    HOME/run/UUID8-D.sock               control socket of the worker that has dataset D open (daemon/control.py)
    HOME/run/mount-HASH.sock            the same worker, found by the directory that it is mounted on
    HOME/run/POOL:DATASET.log           what a worker in the background has to say
    HOME/owner                          the id of this home, as which it uses pools (pool/owner.py)
    HOME/run/UUID-owner.lock            held shared by whoever uses the pool with that UUID
    HOME/local/UUID/                    journal and cache of the object store backend with that UUID
    HOME/run/home.lock                  taken while pools are created, imported, exported, destroyed or grown

Names beginning with a dot under pools/ are pools half made or half removed; nobody opens them.
"""

import fcntl
import os
import re
import shutil
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import trio

from sds.core.errors import BackendError, BadInput, Corrupt, Missing
from sds.core.names import check_name

CATALOG = "catalog.db"
_OWNER = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Home:
    path: Path

    @property
    def pools_dir(self) -> Path:
        return self.path / "pools"

    @property
    def run_dir(self) -> Path:
        return self.path / "run"

    def ensure(self) -> "Home":
        """Makes what is missing."""
        try:
            for directory in (self.path, self.pools_dir, self.run_dir):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(
                f"cannot use {self.path} as home ({error.strerror}): choose another with --home"
            ) from error
        return self

    def pool_names(self) -> list[str]:
        if not self.pools_dir.is_dir():
            return []
        names = (entry.name for entry in self.pools_dir.iterdir() if (entry / CATALOG).is_file())
        return sorted(name for name in names if not name.startswith("."))

    def has_pool(self, name: str) -> bool:
        return (self.pools_dir / name / CATALOG).is_file()

    def catalog_path(self, name: str) -> Path:
        """Of an existing pool."""
        check_name("pool", name)
        if not self.has_pool(name):
            known = ", ".join(self.pool_names()) or "none"
            raise Missing(f"no pool {name} in {self.path} (there: {known}): create or import it")
        return self.pools_dir / name / CATALOG

    def lock_path(self, pool: bytes, dataset_id: int) -> Path:
        return self.run_dir / f"{pool.hex()}-{dataset_id}.lock"

    def snapshot_lock_path(self, pool: bytes, snapshot_id: int) -> Path:
        return self.run_dir / f"{pool.hex()}-s{snapshot_id}.lock"

    def socket_path(self, pool: bytes, dataset_id: int) -> Path:
        return self.run_dir / f"{pool.hex()[:8]}-{dataset_id}.sock"

    def owner_lock_path(self, pool: bytes) -> Path:
        return self.run_dir / f"{pool.hex()}-owner.lock"

    def owner_id(self) -> str:
        """32 hex digits, made once: by link, so that whoever reads it finds all of it. Blocks."""
        path = self.path / "owner"
        try:
            if not path.exists():
                mine = self.path / f".owner-{uuid.uuid4().hex}"
                mine.write_text(uuid.uuid4().hex)
                _fsync(mine)
                with suppress(FileExistsError):
                    os.link(mine, path)
                mine.unlink()
                _fsync(self.path)
            found = path.read_text().strip()
        except OSError as error:
            raise BackendError(f"cannot make or read {path}: {error.strerror}") from error
        if _OWNER.fullmatch(found) is None:
            raise Corrupt(f"{path} is damaged: remove it, and import the pools of this home again")
        return found

    def local_dir(self, backend_uuid: str) -> Path:
        """Where a backend keeps its journal and cache on this machine; made by the backend."""
        return self.path / "local" / backend_uuid

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        """Serialises changes to the set of pools and their backends; waits its turn."""
        descriptor = os.open(self.run_dir / "home.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            await trio.to_thread.run_sync(fcntl.flock, descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def new_pool_dir(self, name: str) -> Path:
        """A fresh hidden directory, for `install`. What a killed process left there goes."""
        directory = self.pools_dir / f".new-{name}"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(mode=0o700)
        return directory

    def discard(self, directory: Path) -> None:
        """A pool that did not come about."""
        shutil.rmtree(directory, ignore_errors=True)

    def install(self, directory: Path, name: str) -> None:
        """The pool exists from here on."""
        _fsync(directory)
        os.rename(directory, self.pools_dir / name)
        _fsync(self.pools_dir)

    def forget(self, name: str) -> None:
        """The pool is gone from here on, then its files."""
        hidden = self.pools_dir / f".old-{name}"
        shutil.rmtree(hidden, ignore_errors=True)
        try:
            os.rename(self.pools_dir / name, hidden)
            _fsync(self.pools_dir)
            shutil.rmtree(hidden)
        except OSError as error:
            raise BackendError(f"cannot remove {self.pools_dir / name}: {error.strerror}") from error


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
