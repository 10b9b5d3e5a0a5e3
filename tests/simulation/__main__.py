"""Run seeds from the command line: see `simulation`."""

import argparse
import sys
import time
import traceback

from tests.simulation.simulation import quiet, run


def main() -> None:
    """Exit code 1 if any seed failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, help="only this one, with its history")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000)
    options = parser.parse_args()
    seeds = [options.seed] if options.seed is not None else range(options.first, options.first + options.count)
    begin, failed, acknowledged = time.perf_counter(), [], 0
    for seed in seeds:
        with quiet():
            found = run(seed)
        acknowledged += found.truth.acknowledged
        if options.seed is not None:
            print("\n".join(found.world.log))
        if found.world.failure is not None:
            failed.append(seed)
            print(f"seed {seed}: {type(found.world.failure).__name__}: {found.world.failure}", flush=True)
            if options.seed is not None:
                traceback.print_exception(found.world.failure)
    took = time.perf_counter() - begin
    rate = len(seeds) / took
    print(f"{len(seeds)} seeds in {took:.1f} s ({rate:.0f}/s), {acknowledged} records acknowledged, {len(failed)} failed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
