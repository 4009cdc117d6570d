"""The simulator by hand: `python -m tests.sim --seed N [--count M]`, `python -m tests.sim --exhaustive 3`."""

import argparse
import sys

from tests.sim.sequences import explore_all
from tests.sim.swarm import Swarm


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="first seed of the random mode")
    parser.add_argument("--count", type=int, default=1, help="how many seeds from there on")
    parser.add_argument("--exhaustive", type=int, metavar="N", help="instead: all sequences of N operations")
    parser.add_argument("--every", type=float, default=0.01, help="part of the events that is crashed at (with N)")
    options = parser.parse_args()
    if options.exhaustive:
        print(explore_all(options.exhaustive, options.every))
        return 0
    for seed in range(options.seed, options.seed + options.count):
        try:
            print(f"seed {seed}: {Swarm(seed).run()}")
        except BaseException:
            print(f"seed {seed} failed: python -m tests.sim --seed {seed} shows it again", file=sys.stderr)
            raise
    return 0


sys.exit(main())
