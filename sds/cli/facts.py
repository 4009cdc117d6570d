"""What there is to tell about datasets, snapshots and pools: from the catalog, and live from workers.

| field            | meaning                                                                                         |
|------------------|-------------------------------------------------------------------------------------------------|
| size_bytes       | logical: how large a volume claims to be; 0 for a filesystem                                    |
| quota_bytes      | filesystems only: what may be used; null: no limit but the pool                                 |
| used_bytes       | mapped: blocks that are not holes, uncompressed, seen from this dataset or snapshot alone       |
| stored_bytes     | segments that this dataset wrote, compressed, with overwritten blocks not swept yet, all copies |
| family_stored_bytes | the same for all that may share data: it, its snapshots and clones, destroyed relatives      |
| written_bytes    | its log since it exists: users' data, compressed, and metadata; one copy                        |
| compress_ratio   | null: what is stored also holds overwritten blocks, so a quotient would be a guess              |

An open segment counts with its full size: that much is preallocated.
"""

import os
from collections import defaultdict
from pathlib import Path
from typing import Any

from sds.cli.risk_facts import risk_facts
from sds.core.errors import SdsError
from sds.daemon.control_client import call
from sds.maintenance.plan import stored_bytes
from sds.pool.catalog import Catalog
from sds.pool.home import Home
from sds.pool.lease import holders
from sds.pool.places import local_path
from sds.pool.pool import Pool
from sds.pool.rows import BackendRow, DatasetRow, PoolRow, SnapshotRow

STATS_TIMEOUT_S = 5.0
Facts = dict[str, Any]


def facts_of(home: Home, catalog: Catalog) -> list[Facts]:
    """Datasets by name, each followed by its snapshots, oldest first."""
    pool = catalog.pool()
    own: dict[int, int] = defaultdict(int)
    family: dict[int, int] = defaultdict(int)
    for segment in catalog.all_segments():
        stored = stored_bytes(segment, pool.segment_size)
        own[segment.dataset] += stored
        family[segment.family] += stored
    found = []
    for row in catalog.datasets():
        snapshots = catalog.snapshots(row.id)
        facts = _of_dataset(home, pool, row, len(snapshots))
        facts |= {"stored_bytes": own[row.id], "family_stored_bytes": family[row.family]}
        found.append(facts)
        found += [_of_snapshot(home, pool, row, snapshot) for snapshot in snapshots]
    return found


def _of_dataset(home: Home, pool: PoolRow, row: DatasetRow, snapshots: int) -> Facts:
    used, written = (row.checkpoint.mapped_blocks * 4096, row.checkpoint.written_bytes) if row.checkpoint else (0, 0)
    held = holders(home.lock_path(pool.uuid, row.id))
    facts: Facts = {
        "name": f"{pool.name}/{row.name}", "kind": row.kind,
        "size_bytes": row.size_bytes, "used_bytes": used, "stored_bytes": 0, "family_stored_bytes": 0,
        "written_bytes": written, "compress_ratio": None, "snapshots": snapshots, "created_at": row.created_at,
        "origin_snapshot_id": row.origin_snapshot, "holder": str(held[0]) if held else None,
        "pid": held[0].pid if held else None, "state": "open" if held else "closed", "error": None,
    }  # fmt: skip
    if row.kind == "fs":
        quota = row.properties.get("quota")
        facts["quota_bytes"] = int(quota) if quota else None
    if held and held[0].socket:
        live = _live(Path(held[0].socket))
        facts |= {key: live[key] for key in ("size_bytes", "used_bytes", "written_bytes") if key in live}
        if live.get("failed"):
            facts |= {"state": "failed", "error": live["failed"]}
    return facts


def _live(socket: Path) -> Facts:
    """What a worker counts itself; nothing if it does not answer, for it may just be starting or ending."""
    try:
        answer = call(socket, "stats", timeout_s=STATS_TIMEOUT_S)
    except SdsError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _of_snapshot(home: Home, pool: PoolRow, row: DatasetRow, snapshot: SnapshotRow) -> Facts:
    held = holders(home.snapshot_lock_path(pool.uuid, snapshot.id))
    return {
        "name": f"{pool.name}/{row.name}@{snapshot.name}", "kind": "snapshot", "id": snapshot.id,
        "size_bytes": snapshot.size_bytes,
        "used_bytes": None if snapshot.root is None else snapshot.mapped_blocks * 4096,
        "created_at": snapshot.created_at, "holder": ", ".join(dict.fromkeys(map(str, held))) or None,
        "pid": held[0].pid if held else None, "state": "open" if held else "closed",
    }  # fmt: skip


def pool_facts(pool: Pool) -> Facts:
    """Of an open pool; backends that are not there are told, too."""
    catalog = pool.catalog
    stored: dict[int, int] = defaultdict(int)
    segments = catalog.all_segments()
    for segment in segments:
        for copy in segment.copies:
            stored[copy] += stored_bytes(segment, pool.segment_size) // len(segment.copies)
    datasets = facts_of(pool.home, catalog)
    volumes = [facts for facts in datasets if facts["kind"] != "snapshot"]
    backends = [_of_backend(pool, row, stored[row.id]) for row in catalog.backends()]
    return {
        "name": pool.name, "uuid": pool.uuid.hex(), "state": _state(pool), "copies": pool.copies,
        "segment_size": pool.segment_size, "segments": len(segments), "datasets": len(volumes),
        "snapshots": len(datasets) - len(volumes),
        "size_bytes": sum(facts["size_bytes"] for facts in volumes),
        "used_bytes": sum(facts["used_bytes"] for facts in volumes),
        "written_bytes": sum(facts["written_bytes"] for facts in volumes),
        "stored_bytes": sum(stored.values()), "compress_ratio": None,
        "free_bytes": sum(_free_places(backends).values()), "backends": backends,
        **risk_facts(pool, segments),
    }  # fmt: skip


def _free_places(backends: list[Facts]) -> dict[object, int]:
    """Free bytes by place: two backends on one file system share what is free there."""
    free: dict[object, int] = {}
    for backend in backends:
        if backend["free_bytes"] is not None:
            path = local_path(backend["url"])
            free[os.stat(path).st_dev if path is not None else backend["url"]] = backend["free_bytes"]
    return free


def _state(pool: Pool) -> str:
    if not pool.missing:
        return "online"
    return "degraded" if len(pool.missing) < pool.copies else "unavailable"


def _of_backend(pool: Pool, row: BackendRow, stored: int) -> Facts:
    facts: Facts = {
        "id": row.id, "url": row.url, "state": row.state, "stored_bytes": stored, "free_bytes": None,
        "total_bytes": None, "error": pool.missing.get(row.id),
    }  # fmt: skip
    backend = pool.backends.get(row.id)
    if backend is None:
        return facts | {"state": "missing"}
    usage = backend.usage()
    health = getattr(backend, "health", None)  # of a guard (backends/guarded.py)
    if health is not None and health.state != "online":
        state = row.state if health.state == "degraded" and row.state != "online" else health.state
        facts |= {"state": state, "error": health.last_error}
    return facts | {"free_bytes": usage.free_bytes, "total_bytes": usage.total_bytes}
