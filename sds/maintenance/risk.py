"""What is at risk in a pool, by its catalog and by which backends answer. Pure.

| field             | files, and bytes of one copy of them, ...                                             |
|-------------------|---------------------------------------------------------------------------------------|
| degraded          | that have fewer copies, in distinct failure domains on backends that answer, than asked |
| single            | of these, with only one left                                                          |
| unreachable       | of these, with none: they cannot be read now                                          |
| unreachable_names | datasets that may need one of the unreachable ones                                    |

Open segments count, too, with the full size of a segment.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sds.maintenance.moves import policies
from sds.pool.files import StoredFile, file_name
from sds.pool.rows import DatasetRow, SegmentRow


@dataclass(slots=True)
class Amount:
    files: int = 0
    size_bytes: int = 0

    def add(self, size_bytes: int) -> None:
        self.files += 1
        self.size_bytes += size_bytes


@dataclass(slots=True)
class Risk:
    degraded: Amount = field(default_factory=Amount)
    single: Amount = field(default_factory=Amount)
    unreachable: Amount = field(default_factory=Amount)
    unreachable_names: list[str] = field(default_factory=list)
    sealed_bytes: int = 0
    verified_bytes: int = 0
    """Of the sealed ones: verified by a scrub since they were written."""


def risk_of(
    rows: Iterable[SegmentRow], datasets: Sequence[DatasetRow], pool_copies: int, segment_size: int,
    labels: Mapping[int, str], connected: Collection[int],
) -> Risk:  # fmt: skip
    """`labels`: failure domains by backend."""
    files: dict[str, list[SegmentRow]] = {}
    for row in rows:
        files.setdefault(file_name(row), []).append(row)
    policy = policies(datasets, pool_copies)
    found = Risk()
    families = set()
    for name, members in files.items():
        size = sum(row.size_bytes if row.sealed else segment_size for row in members)
        if members[0].sealed:
            found.sealed_bytes += size
            found.verified_bytes += size if all(row.verified_at for row in members) else 0
        file = StoredFile(name, tuple(members))
        domains = {labels[copy] for copy in file.copies if copy in connected and copy in labels}
        if len(domains) >= policy(file).copies:
            continue
        found.degraded.add(size)
        if len(domains) == 1:
            found.single.add(size)
        elif not domains:
            found.unreachable.add(size)
            families.add(file.family)
    found.unreachable_names = [row.name for row in datasets if row.family in families]
    return found
