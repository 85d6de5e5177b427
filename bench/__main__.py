"""`make bench`: every benchmark, one after the other; the JSON is in build/bench.

python -m bench [--short]        --short: seconds instead of minutes, to see that it works
"""

from __future__ import annotations

import subprocess
import sys

FULL: dict[str, list[str]] = {"spd": [], "ike": [], "engine": [], "dataplane": [], "kernel": []}
SHORT = {
    "spd": ["--short"],
    "ike": ["--short"],
    "engine": ["--short"],
    "dataplane": ["--seconds", "2", "--runs", "1", "--packets", "0"],
    "kernel": ["--short"],
}


def main() -> int:
    which = SHORT if "--short" in sys.argv[1:] else FULL
    # Each in a process of its own, so that none measures what another left behind.
    outcomes = [
        subprocess.run([sys.executable, "-m", f"bench.{name}", *options], check=False).returncode
        for name, options in which.items()
    ]
    return max(outcomes)


if __name__ == "__main__":
    sys.exit(main())
