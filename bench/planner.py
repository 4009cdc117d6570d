"""The table of docs/decisions/0003-map-page-size.md: `python -m bench.planner`."""

import sys
from collections.abc import Iterator

from sds.core.address import BLOCK_SIZE
from sds.core.planner import UNIFORM, ZIPF, checkpoint_interval_bytes, interval_cost

PAGE_BLOCKS = (32, 64, 128, 256, 512)
GIB = 1 << 30
SIZES = ((10 * GIB, "10 GiB"), (100 * GIB, "100 GiB"), (1024 * GIB, "1 TiB"))


def rows() -> Iterator[str]:
    yield "| volume | workload | entries | interval MiB | pages % | nodes % | in all | CPU s per GiB |"
    yield "|---|---|---|---|---|---|---|---|"
    for size_bytes, name in SIZES:
        for workload in (UNIFORM, ZIPF):
            for entries in PAGE_BLOCKS:
                blocks = size_bytes // BLOCK_SIZE
                interval = checkpoint_interval_bytes(blocks, entries)
                cost = interval_cost(blocks, interval, entries, workload)
                pages, nodes = 100 * cost.page_bytes / interval, 100 * cost.node_bytes / interval
                yield (
                    f"| {name} | {workload.name} | {entries} | {interval >> 20} | {pages:.1f} | {nodes:.1f} "
                    f"| {cost.amplification:.3f} | {cost.cpu_s * GIB / interval:.1f} |"
                )


if __name__ == "__main__":
    sys.stdout.write("\n".join(rows()) + "\n")
