"""An edit: a transaction of a filesystem, with what nearly every operation needs."""

import errno

from sds.dataset.dataset import Dataset
from sds.dataset.transaction import Transaction
from sds.filesystem.attributes import Attr
from sds.filesystem.entries import Link, check_name, find, insert, remove, replace
from sds.filesystem.inodes import Counters, error, load_attr, load_counters, orphan_key, store_attr, store_counters


class Edit(Transaction):
    """Made anew each time its section is done. `now_ns`: the time of the operation."""

    def __init__(self, dataset: Dataset, seed: int, now_ns: int) -> None:
        super().__init__(dataset)
        self.seed = seed
        self.now_ns = now_ns
        self.orphaned: list[int] = []
        """Inodes that lost their last name and are kept for now."""

    def attr(self, inode: int) -> Attr:
        return load_attr(self, inode)

    def store(self, attr: Attr) -> None:
        store_attr(self, attr)

    def update(self, before: Attr, after: Attr) -> None:
        """Store what has changed; often, within one tick of the clock, nothing has."""
        if after != before:
            store_attr(self, after)

    def changed(self, attr: Attr) -> Attr:
        """Its contents have changed now."""
        return attr._replace(mtime_ns=self.now_ns, ctime_ns=self.now_ns)

    def counters(self) -> Counters:
        return load_counters(self)

    def store_counters(self, counters: Counters) -> None:
        store_counters(self, counters)

    def lose_last_name(self, attr: Attr) -> None:
        """NS2 of namespace.py."""
        self.store(attr)
        self.put(orphan_key(attr.inode), b"")
        self.orphaned.append(attr.inode)

    # -- directories ----------------------------------------------------------------------------------------------

    def directory(self, inode: int) -> Attr:
        """A directory that names can be put into: ENOTDIR, ENOENT (it was removed)."""
        attr = self.attr(inode)
        if not attr.is_directory:
            raise error(errno.ENOTDIR)
        if not attr.nlink:
            raise error(errno.ENOENT)
        return attr

    def find(self, directory: int, name: bytes) -> Link | None:
        check_name(name)
        return find(self, self.seed, directory, name)

    def expect(self, directory: int, name: bytes) -> Link:
        """ENOENT."""
        link = self.find(directory, name)
        if link is None:
            raise error(errno.ENOENT)
        return link

    def insert(self, directory: int, name: bytes, attr: Attr) -> None:
        insert(self, self.seed, directory, name, attr)

    def remove(self, directory: int, name: bytes) -> None:
        remove(self, self.seed, directory, name)

    def replace(self, directory: int, name: bytes, attr: Attr) -> None:
        replace(self, self.seed, directory, name, attr)
