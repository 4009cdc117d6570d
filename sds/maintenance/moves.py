"""Which copies of sealed files go where. Pure: catalog rows and backends in, moves out; moving.py carries them out.

| goal      | what it mends                                       | moves                                      |
|-----------|-----------------------------------------------------|--------------------------------------------|
| resilver  | fewer reachable copies than asked, or more          | add what is missing, drop what is too many |
| evacuate  | copies on backends that are draining                | add elsewhere, drop there                  |
| rebalance | backends that are much fuller than others           | from the fullest to the emptiest           |
| tier      | cold files that are not in the last tier of `place` | add there, drop elsewhere                  |

  MP1  Copies count by failure domain (label), and only those whose backend answers and is not draining.
  MP2  No move leaves a file with fewer reachable domains than it has, or than asked if it has more.
  MP3  A copy on a backend that does not answer is dropped only by evacuation: it may come back as it was.
  MP4  No place is planned fuller than its free bytes, those of earlier moves of the plan taken off.
  MP5  Who has the fewest copies is first in a resilver.
  MP6  What a family shares is kept as the strictest of its datasets asks.
  MP7  Cold is what lies `cold_after_bytes` behind the newest of its family, counted in bytes written since.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from sds.core.errors import NoSpace
from sds.pool.files import StoredFile
from sds.pool.placement import Candidate, choose, in_tier
from sds.pool.policy import Policy, policy_of
from sds.pool.rows import DatasetRow

SPREAD_POINTS: Final = 10.0
COLD_AFTER_BYTES: Final = 1 << 30
Goal = Literal["resilver", "evacuate", "rebalance", "tier"]
PolicyOf = Callable[[StoredFile], Policy]


@dataclass(frozen=True, slots=True)
class Place:
    """A backend as the planner sees it."""

    id: int
    label: str
    tier: str
    is_draining: bool
    is_connected: bool
    free_bytes: int
    """That may be filled: without the reserve."""
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Move:
    file: StoredFile
    add: tuple[int, ...]
    drop: tuple[int, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Stuck:
    file: StoredFile
    why: str


@dataclass(frozen=True, slots=True)
class Plan:
    moves: list[Move] = field(default_factory=list)
    stuck: list[Stuck] = field(default_factory=list)

    @property
    def written_bytes(self) -> int:
        return sum(move.file.size_bytes * len(move.add) for move in self.moves)


def policies(datasets: Iterable[DatasetRow], pool_copies: int) -> PolicyOf:
    """MP6. `place` is that of the dataset that wrote the newest segment in the file."""
    own: dict[int, Policy] = {}
    strictest: dict[int, int] = defaultdict(lambda: 0)
    for row in datasets:
        own[row.id] = policy_of(row.properties, pool_copies)
        strictest[row.family] = max(strictest[row.family], own[row.id].copies)

    def find(file: StoredFile) -> Policy:
        policy = own.get(file.rows[-1].dataset, Policy(pool_copies))
        return replace(policy, copies=strictest.get(file.family, pool_copies))

    return find


def plan(
    files: Sequence[StoredFile], places: Iterable[Place], policy: PolicyOf, goal: Goal,
    cold_after_bytes: int = COLD_AFTER_BYTES, spread_points: float = SPREAD_POINTS,
) -> Plan:  # fmt: skip
    planner = _Planner(files, places, policy, cold_after_bytes)
    match goal:
        case "resilver":
            for file in sorted(files, key=lambda one: (len(planner.domains(one.copies)), one.rows[0].id)):  # MP5
                planner.resilver(file)
        case "evacuate":
            for file in files:
                planner.evacuate(file)
        case "tier":
            for file in files:
                planner.cool(file)
        case "rebalance":
            planner.rebalance(spread_points)
    return planner.found


class _Planner:
    def __init__(
        self, files: Sequence[StoredFile], places: Iterable[Place], policy: PolicyOf, cold_after_bytes: int
    ) -> None:
        self.found = Plan()
        self._files = files
        self._places = {place.id: place for place in places}
        self._free = {place.id: place.free_bytes for place in self._places.values()}
        self._policy = policy
        self._cold = _cold_names(files, cold_after_bytes)

    def domains(self, copies: Iterable[int]) -> set[str]:
        """MP1."""
        return {self._places[copy].label for copy in copies if self._is_good(copy)}

    def _is_good(self, copy: int) -> bool:
        place = self._places.get(copy)
        return place is not None and place.is_connected and not place.is_draining

    def _is_reachable(self, copy: int) -> bool:
        return copy in self._places and self._places[copy].is_connected

    def resilver(self, file: StoredFile) -> None:
        wanted = self._policy(file).copies
        if not any(map(self._is_reachable, file.copies)):
            self._stick(file, "no copy can be reached")
            return
        missing = wanted - len(self.domains(file.copies))
        if missing > 0:
            add = self._choose_up_to(file, file.copies, missing)
            if add:
                self._move(file, add, (), f"{wanted - missing} of {wanted} copies")
            if len(add) < missing:
                self._stick(file, f"no place for {missing - len(add)} more copies")
            return
        drop = self._surplus(file, wanted)
        if drop:
            self._move(file, (), drop, f"more than {wanted} copies")

    def _surplus(self, file: StoredFile, wanted: int) -> tuple[int, ...]:
        """MP3. First what shares its failure domain, then what is in the wrong tier, then where least is free."""
        good = [copy for copy in file.copies if self._is_good(copy)]
        tier = self._tier(file)
        kept: dict[str, int] = {}
        order = sorted(good, key=lambda copy: (tier not in ("", self._places[copy].tier), -self._free[copy], copy))
        for copy in order:
            if len(kept) < wanted:
                kept.setdefault(self._places[copy].label, copy)
        return tuple(copy for copy in good if copy not in kept.values())

    def evacuate(self, file: StoredFile) -> None:
        drop = tuple(copy for copy in file.copies if copy in self._places and self._places[copy].is_draining)
        if not drop:
            return
        stays = tuple(copy for copy in file.copies if copy not in drop)
        if not any(map(self._is_reachable, file.copies)):
            self._stick(file, "no other copy can be reached")
            return
        wanted = self._policy(file).copies
        before = {self._places[copy].label for copy in file.copies if self._is_reachable(copy)}
        have = len(self.domains(stays))
        add = self._choose_up_to(file, file.copies, max(0, wanted - have), stays)
        if have + len(add) < min(wanted, len(before)):  # MP2
            self._stick(file, "no place for its copy")
            return
        self._move(file, add, drop, "its backend is draining")

    def cool(self, file: StoredFile) -> None:
        policy = self._policy(file)
        if len(policy.place) < 2 or file.name not in self._cold:
            return
        tier = policy.place[-1]
        stays = tuple(copy for copy in file.copies if copy in self._places and self._places[copy].tier == tier)
        drop = tuple(copy for copy in file.copies if copy not in stays and self._is_reachable(copy))
        missing = policy.copies - len(self.domains(stays))
        candidates = [one for one in self._candidates(file, stays) if one.tier == tier]
        add = self._choose(file, candidates, missing) if missing > 0 else ()
        if drop and len(add) >= missing:
            self._move(file, add, drop, f"cold: to {tier}")

    def rebalance(self, spread_points: float) -> None:
        """The files of each place by size, so that few of them do; each is moved once at most."""
        on = {key: [file for file in self._files if key in file.copies] for key in self._places if self._is_good(key)}
        moved: set[str] = set()
        rest = {(full, empty): iter(on[full]) for full in on for empty in on}  # what does not fit now never will
        while rest:
            by_use = sorted(on, key=lambda key: (self._used_share(key), key))
            pairs = [
                (full, empty) for full in reversed(by_use) for empty in by_use
                if 100 * (self._used_share(full) - self._used_share(empty)) > spread_points
                and (full, empty) in rest
            ]  # fmt: skip
            if not pairs:
                return
            full, empty = pairs[0]
            fitting = (one for one in rest[full, empty] if one.name not in moved and self._fits(one, full, empty))
            file = next(fitting, None)
            if file is None:
                del rest[full, empty]
                continue
            moved.add(file.name)
            self._move(file, (empty,), (full,), "to an emptier backend")

    def _fits(self, file: StoredFile, full: int, empty: int) -> bool:
        target, source = self._places[empty], self._places[full]
        others = {self._places[copy].label for copy in file.copies if copy != full and copy in self._places}
        is_in_tier = target.tier == source.tier or not self._policy(file).place
        gap = (self._used_share(full) - self._used_share(empty)) * min(source.total_bytes, target.total_bytes)
        has_room = self._free[empty] >= file.size_bytes
        return is_in_tier and has_room and empty not in file.copies and target.label not in others and (
            file.size_bytes < gap
        )

    def _used_share(self, key: int) -> float:
        total = self._places[key].total_bytes
        return 1 - self._free[key] / total if total else 1.0

    # -- places --------------------------------------------------------------------------------------------------------

    def _tier(self, file: StoredFile) -> str:
        place = self._policy(file).place
        if not place:
            return ""
        return place[-1] if file.name in self._cold else place[0]

    def _candidates(self, file: StoredFile, beside: Iterable[int]) -> list[Candidate]:
        """Where another copy may go: none of the failure domains of `beside`, nor a backend that has one."""
        taken = self.domains(beside)
        return [
            Candidate(one.id, one.label, self._free[one.id], one.tier)
            for one in self._places.values()
            if self._is_good(one.id) and one.label not in taken and one.id not in file.copies
        ]

    def _choose_up_to(
        self, file: StoredFile, beside: Iterable[int], count: int, stays: Iterable[int] | None = None
    ) -> tuple[int, ...]:
        """As many places as there are, at most `count`."""
        candidates = self._candidates(file, beside if stays is None else stays)
        tier = self._tier(file)
        for fewer in range(count, 0, -1):
            able = in_tier(candidates, tier, fewer, file.size_bytes) if tier else candidates
            chosen = self._choose(file, able, fewer)
            if chosen:
                return chosen
        return ()

    def _choose(self, file: StoredFile, candidates: list[Candidate], count: int) -> tuple[int, ...]:
        try:
            return choose(file.rows[0].id, candidates, count, file.size_bytes)
        except NoSpace:
            return ()

    def _move(self, file: StoredFile, add: tuple[int, ...], drop: tuple[int, ...], reason: str) -> None:
        for copy in add:
            self._free[copy] -= file.size_bytes  # MP4
        for copy in drop:
            if copy in self._free:
                self._free[copy] += file.size_bytes if self._is_good(copy) else 0
        self.found.moves.append(Move(file, add, drop, reason))

    def _stick(self, file: StoredFile, why: str) -> None:
        self.found.stuck.append(Stuck(file, why))


def _cold_names(files: Iterable[StoredFile], cold_after_bytes: int) -> set[str]:
    """MP7."""
    behind: dict[int, int] = defaultdict(int)
    cold = set()
    for file in sorted(files, key=lambda one: -one.rows[-1].id):
        if behind[file.family] >= cold_after_bytes:
            cold.add(file.name)
        behind[file.family] += file.size_bytes
    return cold
