"""After an import: from the checkpoint that the catalog backup knows to the newest one in the logs themselves.

  A1  A worker that opened the dataset after the backup was made began its epoch with a checkpoint (V1 of
      sds.dataset.recovery). The CHECKPOINT frames of the newest epoch whose log is whole up to one of them say
      where to go on; the last such frame counts.
  A2  "Whole" is proven: every frame from the epoch's first one up to the CHECKPOINT frame is there and verifies. So the
      nodes it refers to are there, and what an earlier recovery had kept was durable before (V6).
  A3  Nothing that the backup refers to was swept since: a sweep backs the catalog up before it deletes (BK1).
  A4  Never back: if the segment that the known checkpoint is in was lost, an older epoch's log may be whole still. It
      has lower sequence numbers; opening the dataset then says what is missing.
"""

from itertools import groupby

from sds.core.checkpoint_record import CheckpointRecord, decode_checkpoint
from sds.core.frame import CHECKPOINT, pool_key
from sds.core.segment import HEAD_SIZE, decode_head
from sds.dataset.recovery import read_file
from sds.log.env import Env
from sds.log.replay import parse
from sds.pool.places import is_remote
from sds.pool.pool import Pool
from sds.pool.rows import CheckpointRef, DatasetRow, SegmentRow


async def adopt_newest(pool: Pool, dataset: DatasetRow, env: Env) -> bool:
    """Publish the newest checkpoint of a dataset that nobody has open; False if the catalog had it already."""
    catalog = pool.catalog
    if any(is_remote(row.url) for row in catalog.backends()):
        return False  # A2 does not hold: what an earlier epoch kept may have been in a journal that is lost
    rows = await env.run_blocking(catalog.segments, dataset.id)
    ref = dataset.checkpoint
    known = max((row.epoch for row in rows if ref is not None and row.id == ref.segment), default=0)
    newer = sorted((row for row in rows if row.epoch > known), key=lambda row: (-row.epoch, row.id))
    for _, log in groupby(newer, key=lambda row: row.epoch):
        record = await _last_checkpoint(pool, list(log))
        if record is not None and (ref is None or record.sequence > ref.sequence):  # A4
            found = CheckpointRef(
                record.root, record.sequence, record.replay_segment, record.replay_offset, record.size_bytes,
                record.mapped_blocks, ref.written_bytes if ref else 0,
            )  # fmt: skip
            await env.run_blocking(catalog.publish, dataset.id, dataset.epoch, found)
            return True
    return False


async def _last_checkpoint(pool: Pool, log: list[SegmentRow]) -> CheckpointRecord | None:
    """A1, A2: of one epoch's log, given by its segments in order."""
    key = pool_key(pool.uuid)
    last: CheckpointRecord | None = None
    sequence = -1
    for row in log:
        data = await _read_any(pool, row)
        head = decode_head(data) if data is not None else None
        if data is None or head is None or (head.pool, head.segment, head.epoch) != (pool.uuid, row.id, row.epoch):
            break
        if sequence < 0 and head.previous:
            break  # the log does not begin here: its first segments are missing
        parsed = parse(data, row.id, key, HEAD_SIZE, sequence if sequence >= 0 else head.first_sequence - 1)
        for frame in parsed.frames:
            if frame.header.kind == CHECKPOINT:
                last = decode_checkpoint(bytes(frame.payload), f"CHECKPOINT frame in segment {row.id:#x}")
        sequence = parsed.sequence
        if not parsed.sealed:
            break
    return last


async def _read_any(pool: Pool, row: SegmentRow) -> memoryview | None:
    for copy in row.copies:
        backend = pool.backends.get(copy)
        data = await read_file(backend, row) if backend is not None else None
        if data is not None:
            return data
    return None
