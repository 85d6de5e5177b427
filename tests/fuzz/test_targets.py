"""Every fuzz target, briefly and blindly, with fixed seeds: 200,000 mutated datagrams, and other inputs.

`make fuzz` runs the same targets for longer, guided by coverage.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from random import Random
from types import ModuleType

import pytest

from cygnet.testing.mutate import mutate

HERE = Path(__file__).parent
INPUTS = {
    "fuzz_wire": 80_000,
    "fuzz_wire_v1": 60_000,
    "fuzz_pieces_v1": 40_000,
    "fuzz_endpoint_clear": 100_000,
    "fuzz_endpoint_sealed": 20_000,
    "fuzz_shown": 10_000,
    "fuzz_vici": 20_000,
    "fuzz_config": 600,
    "fuzz_identity": 10_000,
    "fuzz_certificate": 4_000,
    "fuzz_esp": 20_000,
    "fuzz_native": 20_000,
}
"""How many inputs each target gets here: as many as it works through in a few seconds."""
CHUNKS = 8


def target(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError(name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_target_is_run_here() -> None:
    assert {path.stem for path in HERE.glob("fuzz_*.py")} == set(INPUTS)


@pytest.mark.parametrize("name", INPUTS)
def test_the_seeds_of_a_target_pass(name: str) -> None:
    module = target(name)
    for seed in module.seeds():
        module.one(seed)


@pytest.mark.parametrize("chunk", range(CHUNKS))
@pytest.mark.parametrize("name", INPUTS)
def test_nothing_escapes_from_a_target(name: str, chunk: int) -> None:
    module = target(name)
    random = Random(chunk)
    seeds = module.seeds()
    for _ in range(INPUTS[name] // CHUNKS):
        data = mutate(random.choice(seeds), random, seeds)
        try:
            module.one(data)
        except Exception as error:
            raise AssertionError(f"{name} with {data.hex()}") from error
