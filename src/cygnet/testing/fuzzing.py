"""What every fuzz target shares: `fuzzing.run(one, seeds())` is its whole main program.

With atheris (`pip install cygnet[fuzz]`) the run is guided by coverage; without it the same inputs
are mutated blindly. Whatever escapes from `one` is a finding: the input is written to
build/fuzz/<target>-<digest> and the program ends with 1. `FUZZ_SECONDS` (60) bounds the run; a file
given as argument is run once, to repeat a finding.
"""

from __future__ import annotations

import gc
import hashlib
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FunctionType

from cygnet.testing.mutate import mutate

FINDINGS = Path("build/fuzz")


def run(one: Callable[[bytes], None], seeds: Sequence[bytes]) -> None:
    target = Path(sys.argv[0]).stem
    for name in sys.argv[1:]:
        one(Path(name).read_bytes())
    if sys.argv[1:]:
        return
    seconds = float(os.environ.get("FUZZ_SECONDS", "60"))
    FINDINGS.mkdir(parents=True, exist_ok=True)
    try:
        import atheris
    except ImportError:
        _blindly(one, seeds, target, seconds)
        return
    corpus = FINDINGS / f"{target}.corpus"
    corpus.mkdir(exist_ok=True)
    for seed in seeds:
        (corpus / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    for function in _own_functions():
        atheris.instrument_func(function)
    options = [
        sys.argv[0], f"-max_total_time={int(seconds)}", "-max_len=4096", "-timeout=5", "-rss_limit_mb=1024",
        f"-artifact_prefix={FINDINGS}/{target}-", str(corpus),
    ]  # fmt: skip
    atheris.Setup(options, one)
    atheris.Fuzz()


def _own_functions() -> list[FunctionType]:
    """Every function of Cygnet that is loaded: coverage of libraries guides nowhere and takes minutes."""
    return [
        thing
        for thing in gc.get_objects()
        if isinstance(thing, FunctionType) and (thing.__module__ or "").startswith("cygnet.")
    ]


def _blindly(one: Callable[[bytes], None], seeds: Sequence[bytes], target: str, seconds: float) -> None:
    chance = random.Random(int(time.time()))
    end = time.monotonic() + seconds
    count = 0
    while time.monotonic() < end:
        data = mutate(chance.choice(seeds), chance, seeds)
        count += 1
        try:
            one(data)
        except Exception:
            path = FINDINGS / f"{target}-{hashlib.sha256(data).hexdigest()[:16]}"
            path.write_bytes(data)
            sys.stderr.write(f"{target}: finding after {count} inputs, written to {path}\n")
            raise
    sys.stdout.write(f"{target}: {count} inputs, nothing found\n")
