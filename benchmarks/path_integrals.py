"""Path-integral dynamics of water in i-PI: 32 beads in one call beside 32 calls, what i-PI itself costs, and MACE.

64 molecules, the shipped model `water`, mixed precision, one thread. Runs that are compared take turns, and ratios are
medians over the turns. Each run is a process of its own, timed by i-PI, which prints the time of each step.
"""

from __future__ import annotations

import contextlib
import io
import re
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from tesseral.benchmarks.peers import MACE_SETTING, mace_missing, write_mace_model
from tesseral.benchmarks.systems import water_box
from tesseral.calculator.ipi_process import DRIVER, SOCKETS_PREFIX, run_ipi
from tesseral.models.registry import resolve_model

MODEL = "water"
N_BEADS = 32
TEMPERATURE = 300  # K
WARM_UP = 5  # steps that are not timed
INPUT = """
<simulation verbosity='high' sockets_prefix='{sockets}'>
  <output prefix='run'> <properties filename='out' stride='10'> [ step, conserved ] </properties> </output>
  <total_steps> {steps} </total_steps>
  <prng> <seed> 1 </seed> </prng>
  {forcefield}
  <system>
    <initialize nbeads='{beads}'>
      <file mode='ase' units='angstrom'> start.extxyz </file>
      <velocities mode='thermal' units='kelvin'> {temperature} </velocities>
    </initialize>
    <forces> <force forcefield='model'/> </forces>
    <ensemble> <temperature units='kelvin'> {temperature} </temperature> </ensemble>
    <motion mode='dynamics'>
      <dynamics mode='nvt'>
        <timestep units='femtosecond'> 0.5 </timestep>
        <thermostat mode='pile_l'> <tau units='femtosecond'> 100 </tau> </thermostat>
      </dynamics>
    </motion>
  </system>
</simulation>
"""
DIRECT = """<ffdirect name='model' pbc='false'> <pes> custom </pes> <pes_path> {path} </pes_path>
    <batch_size> {batch} </batch_size> <parameters> {parameters} </parameters> </ffdirect>"""
SOCKET = """<ffsocket name='model' mode='unix' pbc='false'> <address> bench </address>
    <batch_size> {batch} </batch_size> <latency> 1e-3 </latency> </ffsocket>"""

#: name of each way to run, and how it is run: connection, and whether all beads are computed in one call
WAYS = {
    "ffdirect, one call": ("direct", True),
    "ffdirect, a call for each bead": ("direct", False),
    "socket, one call": ("socket", True),
    "socket, a call for each bead": ("socket", False),
}

Advance = Callable[[], object]


def measure_ways(steps: int, rounds: int, advance: Advance = lambda: None) -> dict[str, Any]:
    """Seconds per step in each way, which take turns.

    Returns:
        n_atoms, n_beads, ``step``: seconds per step by way, ``speedup``: of one call over a call for each bead, by
        connection, and from the same turns ``engine``: seconds for the engine's one call, and ``driver``: seconds for
        the driver's one call, everything of ours included.
    """
    atoms = _water()
    turns: dict[str, list[float]] = {name: [] for name in (*WAYS, "engine", "driver")}
    for _ in range(rounds):
        for name, (connection, one_call) in WAYS.items():
            turns[name].append(_seconds_per_step(atoms, connection, N_BEADS if one_call else 1, steps))
            advance()
        engine, driver = _seconds_in_python(atoms, steps)
        turns["engine"].append(engine)
        turns["driver"].append(driver)
    median = {name: statistics.median(values) for name, values in turns.items()}
    return {
        "n_atoms": len(atoms),
        "n_beads": N_BEADS,
        "step": {name: median[name] for name in WAYS},
        "speedup": {
            connection: statistics.median(
                many / one
                for many, one in zip(
                    turns[f"{connection}, a call for each bead"], turns[f"{connection}, one call"], strict=True
                )
            )
            for connection in ("ffdirect", "socket")
        },
        "engine": median["engine"],
        "driver": median["driver"],
    }


def measure_mace(steps: int = 2) -> dict[str, Any]:
    """i-PI with its own driver for mace-torch, on the same system: a model with 128 scalar channels and random
    weights, float32, all beads in one batch and a batch for each bead, whichever is faster.

    Returns:
        ``step`` in seconds, ``batch`` that is meant, ``version``; or ``skipped``, the reason why there is no figure.
    """
    reason = mace_missing()
    if reason is not None:
        return {"skipped": reason}
    from importlib.metadata import version

    import ipi.pes

    path = Path(ipi.pes.__file__).with_name("_mace.py")
    atoms = _water()
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        reason = write_mace_model(folder / "mace.model", (1, 8))
        if reason is not None:
            return {"skipped": reason}
        (folder / "kwargs.json").write_text('{"default_dtype": "float32"}', encoding="utf-8")
        for batch in (1, N_BEADS):
            parameters = (
                f"{{ template: {folder}/start.extxyz, model: {folder}/mace.model, mace_kwargs: {folder}/kwargs.json }}"
            )
            forcefield = DIRECT.format(path=path, batch=batch, parameters=parameters)
            seconds = _run(atoms, folder, forcefield, {}, steps, warm_up=1)
            found[seconds] = batch
    best = min(found)
    return {"step": best, "batch": found[best], "version": version("mace-torch")}


def steps_timed(output: str) -> list[float]:
    """Seconds of each step in i-PI's output."""
    return [float(x) for x in re.findall(r"Average timings at MD step +\d+\. t/step: (\S+)", output)]


def seconds_per_step(way: str, steps: int) -> float:
    """Median time of a step in one run in one of WAYS."""
    connection, one_call = WAYS[way]
    return _seconds_per_step(_water(), connection, N_BEADS if one_call else 1, steps)


def _water() -> Atoms:
    """64 molecules, 0.997 g/cm^3."""
    return water_box(4, 0.997, np.random.default_rng(0))


def _seconds_per_step(atoms: Atoms, connection: str, batch: int, steps: int) -> float:
    """Median time of a step in one run."""
    model = resolve_model(MODEL)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        template = folder / "start.extxyz"
        if connection == "socket":
            drivers = {"bench": f"model={model},template={template}"}
            return _run(atoms, folder, SOCKET.format(batch=batch), drivers, steps)
        parameters = f"{{ model: {model}, template: {template} }}"
        return _run(atoms, folder, DIRECT.format(path=DRIVER, batch=batch, parameters=parameters), {}, steps)


def _run(
    atoms: Atoms, folder: Path, forcefield: str, drivers: dict[str, str], steps: int, warm_up: int = WARM_UP
) -> float:
    """Median time of a step, after some that are not timed."""
    atoms.write(folder / "start.extxyz")
    text = INPUT.format(
        steps=warm_up + steps,
        forcefield=forcefield,
        beads=N_BEADS,
        temperature=TEMPERATURE,
        sockets=SOCKETS_PREFIX,
    )
    (folder / "input.xml").write_text(text, encoding="utf-8")
    output = run_ipi(folder, drivers, timeout=3600, environment=MACE_SETTING)
    return statistics.median(steps_timed(output)[warm_up:])


def _seconds_in_python(atoms: Atoms, repeats: int) -> tuple[float, float]:
    """One call for all beads of the engine with its neighbour list, and of the driver; beads as far apart as protons
    at TEMPERATURE."""
    from ase.units import Bohr

    from tesseral.benchmarks.timing import median_seconds
    from tesseral.calculator.ipi_driver import TesseralDriver

    generator = np.random.default_rng(0)
    spread = np.where(atoms.numbers == 1, 0.15, 0.05)[:, None]
    beads = atoms.positions + spread * generator.normal(size=(N_BEADS, len(atoms), 3)) / 3
    with tempfile.TemporaryDirectory() as name:
        template = Path(name) / "start.extxyz"
        atoms.write(template)
        with contextlib.redirect_stdout(io.StringIO()):  # what it announces
            driver = TesseralDriver(resolve_model(MODEL), template)
    model, shared = driver.model, driver.beads
    species = model.species_indices(atoms.numbers)
    (group,) = shared.update(beads, np.tile(atoms.cell.array, (N_BEADS, 1, 1)))
    cells = [atoms.cell.array.T / Bohr] * N_BEADS
    positions = list(beads / Bohr)
    engine = median_seconds(lambda: model.compute_batch(group, species), repeats)
    return engine, median_seconds(lambda: driver.compute(cells, positions), repeats)
