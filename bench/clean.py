"""`python -m bench clean`: a pool that is four fifths full of live data, overwritten at random, over and over.

  CB1  The pool is one raw device, a sparse file, of such a size that the volume's blocks, stored one by one, are `use`
       of its room. The volume is filled with incompressible data, then overwritten in 4 KiB blocks, `rounds` times as
       many as it has. Writers never see a full pool: fio fails on the first error.
  CB2  Written bytes are those of the log and of the packs, one copy, as the worker counts them: data, metadata and
       formats; not the catalog. The first WARM_UP rounds turn a volume that was written in order into one that was
       not; the steady part comes after them.
  CB3  The rate without cleaning is that of a volume of the same size in a pool of the same kind with much room, new
       before each round, and only as long as it has little garbage; measured in turn with the rounds. If the
       cleaner did something there all the same, that is told.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.fio import FILL, Job, run_job
from bench.report import amount, ratio_of_pairs, save, size_bytes, table
from bench.worker import ask, the_backend
from bench.world import settle, versions, world
from tools.sds import Sds
from tools.servers import SdsServer

BLOCK, STORED_BLOCK = 4096, 4096 + 64 + 64
"""With its header, and that in the table at the end of its segment."""
WARM_UP = 2
SHORT_PART = 0.4
"""Of the volume is overwritten without cleaning: garbage stays below what a cleaner looks at."""
ROOMY = 4
DEPTH = 32
AIMS = {"uniform": 2.8, "zipf": 2.4}
RATE_AIM = 0.6
LOOK_S = 1.0
DISTRIBUTIONS = {"uniform": None, "zipf": "zipf:0.99"}


@dataclass(frozen=True, slots=True)
class Plan:
    size: str
    use: float
    rounds: int
    patterns: tuple[str, ...]
    segment_size: str

    @property
    def size_bytes(self) -> int:
        return size_bytes(self.size)

    @property
    def pool_bytes(self) -> int:
        return int(self.size_bytes // BLOCK * STORED_BLOCK / self.use)


@dataclass(frozen=True, slots=True)
class Round:
    """Differences over the round, but for what is marked."""

    user_bytes: int
    log_bytes: int
    packed_bytes: int
    cleaner_read_bytes: int
    rate: float
    """4k writes per second."""
    rate_without: float
    worst_used_part: float
    """Of the pool's room, at its highest."""

    @property
    def written_bytes(self) -> int:
        return self.log_bytes + self.packed_bytes


def amplification(rounds: list[Round]) -> float:
    return sum(one.written_bytes for one in rounds) / sum(one.user_bytes for one in rounds)


def steady(rounds: list[Round]) -> list[Round]:
    return rounds[min(WARM_UP, len(rounds) - 1) :]


def overwrite(server: SdsServer, pattern: str, volume_bytes: int, io_bytes: int, seed: int) -> tuple[float, int]:
    """4k writes per second, and the bytes."""
    job = Job(f"overwrite-{pattern}", "randwrite", BLOCK, DEPTH)
    options = ["--norandommap"]
    if distribution := DISTRIBUTIONS[pattern]:
        options.append(f"--random_distribution={distribution}")
    result = run_job(server.uri, job, volume_bytes, seed=seed, io_bytes=io_bytes, options=options)
    return result.value, result.data_bytes


def make_pool(directory: Path, name: str, room_bytes: int, segment_size: str) -> Sds:
    image = directory / f"{name}.img"
    with image.open("wb") as file:
        file.truncate(room_bytes)
    sds = Sds(directory / f"{name}-home")
    sds("pool", "create", "bench", f"disk:{image}", "--segment-size", segment_size)
    return sds


class Watch:
    """How full the pool is, once a second, beside the load."""

    def __init__(self, sds: Sds) -> None:
        self._sds = sds
        self._end = threading.Event()
        self.used_parts: list[float] = []

    def look(self) -> dict[str, Any]:
        stats = ask(self._sds, "stats")
        room = the_backend(stats)
        self.used_parts.append(1 - room["free_bytes"] / room["total_bytes"])
        return stats

    def _run(self) -> None:
        while not self._end.wait(LOOK_S):
            self.look()

    @contextmanager
    def watching(self) -> Iterator[None]:
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield
        finally:
            self._end.set()
            thread.join()


def without_cleaning(directory: Path, sds: Sds, plan: Plan, pattern: str, number: int) -> tuple[float, int]:
    """CB3: the rate, and the packs that were written all the same."""
    dataset = f"bench/{pattern}-{number}"
    sds("volume", "create", dataset, plan.size)
    with SdsServer(sds, dataset, directory / "roomy.s") as server:
        run_job(server.uri, FILL, plan.size_bytes)
        settle()
        rate, _ = overwrite(server, pattern, plan.size_bytes, int(plan.size_bytes * SHORT_PART), seed=number + 1)
        packs = int(ask(sds, "stats")["cleaned_packs"])
    sds("destroy", dataset)
    return rate, packs


def one_round(
    server: SdsServer, plan: Plan, pattern: str, number: int, rate_without: float, say: Callable[[str], None]
) -> Round:
    watch = Watch(server.sds)
    before = watch.look()
    settle()
    with watch.watching():
        rate, user_bytes = overwrite(server, pattern, plan.size_bytes, plan.size_bytes, seed=number + 1)
    after = watch.look()
    change = {key: after[key] - before[key] for key in ("log_bytes", "cleaned_written_bytes", "cleaned_read_bytes")}
    log, packed, read = change.values()
    it = Round(user_bytes, log, packed, read, rate, rate_without, max(watch.used_parts))
    say(
        f"{pattern} round {number + 1}: {amount(rate)}/s, without cleaning {amount(rate_without)}/s,"
        f" written {amplification([it]):.2f} x, pool at most {it.worst_used_part:.1%} full"
    )
    return it


def measure(directory: Path, plan: Plan, pattern: str, say: Callable[[str], None]) -> list[Round]:
    directory.mkdir()
    full = make_pool(directory, "full", plan.pool_bytes, plan.segment_size)
    roomy = make_pool(directory, "roomy", ROOMY * plan.pool_bytes, plan.segment_size)
    full("volume", "create", "bench/vol", plan.size)
    rounds = []
    with SdsServer(full, "bench/vol", directory / "full.s") as server:
        begin_s = time.monotonic()
        run_job(server.uri, FILL, plan.size_bytes)
        say(f"{pattern}: filled in {time.monotonic() - begin_s:.1f} s")
        for number in range(plan.rounds):
            rate_without, packs = without_cleaning(directory, roomy, plan, pattern, number)
            if packs:
                say(f"the cleaner wrote {packs} packs where none were expected: the rate without it is too low")
            rounds.append(one_round(server, plan, pattern, number, rate_without, say))
    return rounds


def row(pattern: str, part: str, rounds: list[Round]) -> list[str]:
    factor, aim = amplification(rounds), AIMS[pattern]
    share = ratio_of_pairs([one.rate for one in rounds], [one.rate_without for one in rounds])
    user = sum(one.user_bytes for one in rounds)
    log = sum(one.log_bytes for one in rounds) / user
    read = sum(one.cleaner_read_bytes for one in rounds) / user
    met = "met" if factor <= aim and share >= RATE_AIM else "MISSED"
    return [
        f"{pattern} {part}", f"{factor:.2f}", f"<= {aim}", f"{log:.2f}", f"{factor - log:.2f}", f"{read:.2f}",
        amount(median(one.rate for one in rounds)), amount(median(one.rate_without for one in rounds)),
        f"{share:.2f} x", f">= {RATE_AIM}", f"{max(one.worst_used_part for one in rounds):.1%}", met,
    ]  # fmt: skip


HEADER = [
    "overwrites", "written/user", "aim", "log", "packs", "read", "4k/s", "without", "share", "aim", "fullest", "",
]  # fmt: skip


def bench_clean(plan: Plan, directory: Path | None, json_path: Path | None) -> None:
    found: dict[str, list[Round]] = {}
    with world(directory) as place:
        for pattern in plan.patterns:
            found[pattern] = measure(place.directory / pattern, plan, pattern, print)
        about = versions(place.directory)
    rows = []
    for pattern, rounds in found.items():
        rows += [row(pattern, "all", rounds), row(pattern, "steady", steady(rounds))]
    print(f"\n{table(HEADER, rows)}")
    print(f"\n{plan.size} volume, {plan.use:.0%} of a pool of {plan.pool_bytes >> 20} MiB, {plan.rounds} rounds of its")
    print(f"size each, segments of {plan.segment_size}; steady: without the first {WARM_UP}")
    print("\n".join(f"{name}: {version}" for name, version in about.items()))
    samples = {pattern: [asdict(one) for one in rounds] for pattern, rounds in found.items()}
    save(json_path, {"plan": asdict(plan), "versions": about, "rounds": samples})
