"""Run the benchmarks one after the other, then write docs/benchmarks.md. All of them take less than half an hour.

The names are serve, encode, int8, stages, search, index, memory, startup, peers and ann; none means all of them.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

# Arguments that keep all of them within half an hour on two cores; a script run alone takes its longer defaults.
PLAN: dict[str, list[str]] = {
    "startup": [],
    "stages": ["--seconds", "8"],
    "encode": ["--seconds", "6"],
    "int8": ["--seconds", "6"],
    "serve": ["--seconds", "8"],
    "search": ["--seconds", "10"],
    "index": ["--small", "256", "--large", "192"],
    "peers": ["--seconds", "6"],
    "memory": ["--queries", "20000"],
    "ann": ["--rows", "100000", "--kinds", "IVFLISTS,SQ8", "HNSW32,SQ8"],
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PLAN)}")
    options.add_argument("--seconds", type=float, help="of each measurement, instead of what is planned")
    given = options.parse_args()
    if unknown := set(given.names) - set(PLAN):
        options.error(f"there is no benchmark {', '.join(sorted(unknown))}")
    failed = []
    for name in given.names or PLAN:
        more = ["--seconds", str(given.seconds)] if given.seconds else []
        print(f"\n# {name}", flush=True)
        began = time.monotonic()
        done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *PLAN[name], *more])
        print(f"{name}: {(time.monotonic() - began) / 60:.1f} minutes", flush=True)
        if done.returncode:
            failed.append(name)
    page = subprocess.run([sys.executable, "-m", "benchmarks.page"])
    if failed or page.returncode:
        sys.exit(f"failed: {', '.join(failed) or 'page'}")


if __name__ == "__main__":
    main()
