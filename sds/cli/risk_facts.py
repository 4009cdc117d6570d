"""What `sds pool status` tells about what is at risk, and about the last scrub.

| field          | meaning                                                                                          |
|----------------|--------------------------------------------------------------------------------------------------|
| at_risk        | degraded, single, unreachable: see sds/maintenance/risk.py; unreachable_datasets: who needs them |
| scrub          | of the last one that ended: started_at, ended_at, files, copies, healed, unhealed, lost; or null |
| scrub_running  | the same counters of one that has not ended, or was interrupted; or null                         |
| verified_share | bytes that some scrub has verified since they were written, of all sealed ones; null: no bytes   |
"""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sds.cli.output import size
from sds.maintenance.risk import risk_of
from sds.maintenance.scrub import PROGRESS, RESULT, last_result
from sds.pool.pool import Pool
from sds.pool.rows import SegmentRow

Facts = dict[str, Any]


def risk_facts(pool: Pool, segments: Sequence[SegmentRow]) -> Facts:
    catalog = pool.catalog
    labels = {row.id: row.label for row in catalog.backends()}
    risk = risk_of(segments, catalog.datasets(), pool.copies, pool.segment_size, labels, pool.backends)
    running, last = (last_result(catalog.progress(name)) for name in (PROGRESS, RESULT))
    return {
        "at_risk": {
            "degraded_files": risk.degraded.files, "degraded_bytes": risk.degraded.size_bytes,
            "single_files": risk.single.files, "single_bytes": risk.single.size_bytes,
            "unreachable_files": risk.unreachable.files, "unreachable_bytes": risk.unreachable.size_bytes,
            "unreachable_datasets": [f"{pool.name}/{name}" for name in risk.unreachable_names],
        },
        "scrub": None if last is None else asdict(last),
        "scrub_running": None if running is None else asdict(running),
        "verified_share": risk.verified_bytes / risk.sealed_bytes if risk.sealed_bytes else None,
    }  # fmt: skip


def risk_lines(facts: Facts) -> list[str]:
    """For people: what is at risk, if anything, and the scrubs, if there were any."""
    risk, lines = facts["at_risk"], []
    if risk["degraded_files"]:
        text = f"at risk: {risk['degraded_files']} files, {size(risk['degraded_bytes'])}, have fewer copies than asked"
        if risk["single_files"]:
            text += f", {risk['single_files']} of them ({size(risk['single_bytes'])}) only one"
        lines.append(text)
    if risk["unreachable_files"]:
        names = ", ".join(risk["unreachable_datasets"]) or "destroyed datasets"
        count, amount = risk["unreachable_files"], size(risk["unreachable_bytes"])
        lines.append(f"not readable now: {count} files, {amount}, of {names}: bring back the missing backends")
    if facts["scrub_running"]:
        done = facts["scrub_running"]
        lines.append(f"scrub since {_when(done['started_at'])}: {done['files']} files, {_result(done)}")
    if facts["scrub"]:
        done, share = facts["scrub"], facts["verified_share"]
        verified = "" if share is None else f"; {100 * share:.0f} % of what is stored is verified"
        lines.append(f"last scrub {_when(done['ended_at'])}: {done['files']} files, {_result(done)}{verified}")
    return lines


def _result(counters: Facts) -> str:
    told = [f"{counters[key]} {key}" for key in ("healed", "unhealed", "lost") if counters[key]]
    if counters["not_reached"]:
        told.append(f"{counters['not_reached']} copies not reached")
    return ", ".join(told) or "nothing wrong"


def _when(at: int) -> str:
    return datetime.fromtimestamp(at).strftime("%Y-%m-%d %H:%M")
