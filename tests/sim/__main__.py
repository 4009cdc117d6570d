"""The simulator by hand: `python -m tests.sim --seed N [--count M]`, `python -m tests.sim --exhaustive 3`; of volumes,
or of filesystems with `--fs`, or of pools with stores and copies with `--stores SHAPE` (seeds with `any`)."""

import argparse
import sys

from tests.sim import fs_sequences, sequences, store_sequences
from tests.sim.fs_swarm import FsSwarm
from tests.sim.store_swarm import StoreSwarm
from tests.sim.swarm import Swarm


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="first seed of the random mode")
    parser.add_argument("--count", type=int, default=1, help="how many seeds from there on")
    parser.add_argument("--exhaustive", type=int, metavar="N", help="instead: all sequences of N operations")
    parser.add_argument("--every", type=float, default=0.01, help="part of the events that is crashed at (with N)")
    parser.add_argument("--fs", action="store_true", help="filesystems instead of volumes")
    parser.add_argument("--stores", choices=["any", *store_sequences.SHAPES], help="pools with stores and copies")
    options = parser.parse_args()
    if options.stores:
        return stores(options)
    if options.exhaustive:
        explore_all = fs_sequences.explore_all if options.fs else sequences.explore_all
        print(explore_all(options.exhaustive, options.every))
        return 0
    for seed in range(options.seed, options.seed + options.count):
        try:
            print(f"seed {seed}: {(FsSwarm if options.fs else Swarm)(seed).run()}")
        except BaseException:
            fs = " --fs" if options.fs else ""
            print(f"seed {seed} failed: python -m tests.sim{fs} --seed {seed} shows it again", file=sys.stderr)
            raise
    return 0


def stores(options: argparse.Namespace) -> int:
    which = "" if options.stores == "any" else options.stores
    if options.exhaustive:
        shape = store_sequences.SHAPES[which or "disk-store"]
        for settles in (False, True) if shape.stores else (False,):
            print(store_sequences.explore_all(shape, settles, options.exhaustive, options.every))
        return 0
    for seed in range(options.seed, options.seed + options.count):
        try:
            print(f"seed {seed}: {StoreSwarm(seed, which).run()}")
        except BaseException:
            again = f"python -m tests.sim --stores {options.stores} --seed {seed}"
            print(f"seed {seed} failed: {again} shows it again", file=sys.stderr)
            raise
    return 0


sys.exit(main())
