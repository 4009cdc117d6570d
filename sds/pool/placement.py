"""On which backends the copies of a segment go. Pure: the same input gives the same answer everywhere.

PL1  Copies go to backends with distinct labels (failure domains).
PL2  Weighted rendezvous hashing: a backend gets segments in proportion to its free bytes, and when one comes
     or goes only its own share moves.
PL3  A backend without room for the segment is never chosen.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import xxhash

from sds.core.errors import NoSpace
from sds.core.units import format_size


@dataclass(frozen=True, slots=True)
class Candidate:
    backend: int
    label: str
    free_bytes: int
    tier: str = ""


def in_tier(candidates: Iterable[Candidate], tier: str, copies: int, size_bytes: int) -> list[Candidate]:
    """Those of the tier with room, if they are of enough failure domains; else all: where data lies matters less than
    that it does."""
    everyone = list(candidates)
    wanted = [candidate for candidate in everyone if candidate.tier == tier and candidate.free_bytes >= size_bytes]
    return wanted if len({candidate.label for candidate in wanted}) >= copies else everyone


def choose(segment: int, candidates: Iterable[Candidate], copies: int, size_bytes: int) -> tuple[int, ...]:
    """The ids of `copies` backends, best first; NoSpace says what is missing."""
    everyone = list(candidates)
    able = [candidate for candidate in everyone if candidate.free_bytes >= max(size_bytes, 1)]
    chosen: dict[str, int] = {}
    for candidate in sorted(able, key=lambda one: (-score(segment, one), one.backend)):
        if len(chosen) == copies:
            break
        chosen.setdefault(candidate.label, candidate.backend)
    if len(chosen) < copies:
        raise NoSpace(_missing(everyone, len(chosen), copies, size_bytes))
    return tuple(chosen.values())


def score(segment: int, candidate: Candidate) -> float:
    """-weight / ln(hash in (0, 1)): the chance of the highest score is in proportion to the weight."""
    digest = xxhash.xxh3_64_intdigest(b"%d:%d" % (segment, candidate.backend))
    return -candidate.free_bytes / math.log((digest + 0.5) / 2.0**64)


def _missing(everyone: Sequence[Candidate], able: int, copies: int, size_bytes: int) -> str:
    labels = len({candidate.label for candidate in everyone})
    need = f"{copies} copies need {copies} failure domains with {format_size(size_bytes)} free"
    if labels < copies:
        return f"{need}, the pool has {labels}: add a backend"
    return f"{need}, only {able} of {labels} have that: free space or add a backend"
