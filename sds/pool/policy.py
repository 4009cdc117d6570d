"""What a dataset asks of the backends that its segments go to: properties `copies`, `place` and `flush`.

| property | values               | default          | meaning                                                         |
|----------|----------------------|------------------|-----------------------------------------------------------------|
| copies   | 1 to 16              | that of the pool | backends, in distinct failure domains, that keep each segment   |
| place    | TIER or TIER,TIER... | any backend      | new segments go to the first tier, cold ones to the last        |
| flush    | journal, backend     | journal          | backend: a flush is done when what it covers is where it stays  |
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    copies: int
    place: tuple[str, ...] = ()
    """Tiers, the fastest first; empty: any."""
    settles: bool = False
    """flush=backend."""


def policy_of(properties: Mapping[str, str], pool_copies: int) -> Policy:
    place = properties.get("place", "")
    return Policy(
        int(properties.get("copies", pool_copies)),
        tuple(place.split(",")) if place else (),
        properties.get("flush") == "backend",
    )
