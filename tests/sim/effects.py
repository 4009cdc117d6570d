"""What a simulated disk has been told but has not promised yet, and the fates a power cut may choose for it.

  E1  A write, cut or name effect is pending from the moment its operation starts until a promise settles it.
  E2  Any subset of the pending effects, applied in order, is a legal disk; operations that promise order
      (sync, seal, put on return) settle what they cover, so nothing else orders effects.
  E3  A torn write takes some of its 512-byte sectors, a garbled one fills some of its sectors with noise.
      A torn create leaves a shorter file (what is kept of the writes inside stays), an otherwise torn name
      effect or cut is dropped. Writes to a file whose create is dropped are lost with it.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from .image import PAGE, SECTOR, Image, with_sectors

SECTORS_PER_PAGE = PAGE // SECTOR
EXHAUSTIVE_MAX = 8
"""Up to this many pending effects every subset of them is a crash state."""


class Fate(Enum):
    KEEP = "keep"
    DROP = "drop"
    TEAR = "tear"
    GARBLE = "garble"


@dataclass(slots=True, eq=False)
class File:
    """One file: `durable` is safe from power cuts, `live` what a reader sees (durable and pending)."""

    durable: Image
    live: Image
    failed: bool = False
    """B4; like `sealed` forgotten by copies, as a new process would."""
    sealed: bool = False

    @classmethod
    def of(cls, image: Image) -> "File":
        return cls(image, image.share())

    def twin(self) -> "File":
        return File(self.durable.share(), self.live.share())


@dataclass(slots=True, eq=False)
class WriteEffect:
    name: str
    file: File
    pages: tuple[tuple[int, bytes], ...]
    returned: bool = False


@dataclass(slots=True, eq=False)
class CutEffect:
    name: str
    file: File
    size: int
    returned: bool = False


@dataclass(slots=True, eq=False)
class NameEffect:
    """`name` shall stand for `file` from now on (None: for nothing)."""

    name: str
    file: File | None
    creates: bool = False
    returned: bool = False


Effect = WriteEffect | CutEffect | NameEffect


def apply_effect(effect: Effect, fate: Fate, names: dict[str, File], rng: random.Random) -> None:
    """Makes what `fate` leaves of the effect durable. `names` are the durable names."""
    if fate is Fate.DROP:
        return
    if isinstance(effect, WriteEffect):
        image = effect.file.durable
        inside = [(index, page) for index, page in effect.pages if index * PAGE < image.size]
        image.write(inside if fate is Fate.KEEP else damage(image, inside, fate, rng))
    elif isinstance(effect, CutEffect):
        if fate is Fate.KEEP:
            effect.file.durable.cut(effect.size)
    elif effect.file is None:
        if fate is Fate.KEEP:
            names.pop(effect.name, None)
    elif fate is Fate.KEEP:
        names[effect.name] = effect.file
    elif effect.creates:
        effect.file.durable.cut(rng.randrange(effect.file.durable.size // PAGE + 1) * PAGE)
        names[effect.name] = effect.file


def damage(
    image: Image, pages: list[tuple[int, bytes]], fate: Fate, rng: random.Random
) -> list[tuple[int, bytes]]:
    """The pages of a write of which only some sectors arrived: a beginning, or any of them."""
    total = len(pages) * SECTORS_PER_PAGE
    if rng.random() < 0.5:
        chosen = set(range(rng.randrange(total + 1)))
    else:
        chosen = {sector for sector in range(total) if rng.random() < 0.5}
    out = []
    for at, (index, page) in enumerate(pages):
        sectors = [s for s in range(SECTORS_PER_PAGE) if at * SECTORS_PER_PAGE + s in chosen]
        if sectors:
            source = page if fate is Fate.TEAR else rng.randbytes(PAGE)
            base = image.page(index) if fate is Fate.TEAR else page
            out.append((index, with_sectors(base, source, sectors)))
        elif fate is Fate.GARBLE:
            out.append((index, page))
    return out


def choose_fates(count: int, limit: int, rng: random.Random, garble: bool) -> Iterator[tuple[Fate, ...]]:
    """Fates for `count` pending effects: at most `limit` ways, all-kept and none-kept first.

    Up to EXHAUSTIVE_MAX effects, and if the limit allows: every subset, and each effect torn and garbled with
    the others kept, and with those after it dropped. Else samples.
    """
    bad = (Fate.TEAR, Fate.GARBLE) if garble else (Fate.TEAR,)
    yield from [(Fate.KEEP,) * count, (Fate.DROP,) * count][: min(limit, 2 if count else 1)]
    left = limit - 2
    if count == 0 or left <= 0:
        return
    if count <= EXHAUSTIVE_MAX and 2**count - 2 + 2 * len(bad) * count <= left:
        for bits in range(1, 2**count - 1):
            yield tuple(Fate.KEEP if bits >> at & 1 else Fate.DROP for at in range(count))
        for at in range(count):
            for fate in bad:
                for rest in (Fate.KEEP, Fate.DROP):
                    yield (Fate.KEEP,) * at + (fate,) + (rest,) * (count - at - 1)
        return
    for _ in range(left):
        yield _sample(count, rng, bad)


def _sample(count: int, rng: random.Random, bad: tuple[Fate, ...]) -> tuple[Fate, ...]:
    """Half of the samples cut at a point in time (the common crash), half mix freely."""
    fates = (Fate.KEEP, Fate.DROP, *bad)
    if rng.random() < 0.5:
        at = rng.randrange(count)
        return (Fate.KEEP,) * at + (rng.choice(fates),) + (Fate.DROP,) * (count - at - 1)
    kept = rng.random()
    return tuple(
        Fate.KEEP if rng.random() < kept else rng.choice((Fate.DROP, *bad)) for _ in range(count)
    )
