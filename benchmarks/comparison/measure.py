"""One measurement: one code on one system, in processes of its own."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from ase import Atoms

from tesseral.benchmarks.comparison.cases import RSS_STEPS, Point
from tesseral.benchmarks.comparison.codes import Code
from tesseral.benchmarks.comparison.processes import Failed, Interpreters, ModelFiles, NotInstalled, ask_worker

#: seconds of timed calls, their least and largest number, seconds after which a process is stopped, steps of i-PI,
#: steps of the memory run
FULL = {"seconds": 1.5, "least_calls": 3, "most_calls": 200, "timeout": 900.0, "steps": 30, "memory_steps": RSS_STEPS}
QUICK = {"seconds": 0.02, "least_calls": 1, "most_calls": 3, "timeout": 120.0, "steps": 2, "memory_steps": 40}


class Bench:
    """Runs measurements; keeps model files in a folder of its own until it is closed."""

    def __init__(self, interpreters: Interpreters, quick: bool) -> None:
        self.interpreters, self.effort = interpreters, QUICK if quick else FULL
        self._folder = TemporaryDirectory()
        self.models = ModelFiles(Path(self._folder.name), interpreters)

    def close(self) -> None:
        """Delete the model files."""
        self._folder.cleanup()

    def measure(self, code: Code, point: Point) -> dict[str, Any]:
        """``n_atoms``, ``n_neighbors`` and ``seconds`` of calls or steps, or what a memory run gives; or ``missing`` or
        ``failed``, the reason: no code that does not run stops the others."""
        from tesseral.calculator.lammps_process import LammpsError

        structures = point.structures()
        try:
            found = self._measured(code, point, structures)
        except NotInstalled as reason:
            return {"missing": str(reason)}
        except FileNotFoundError as reason:  # no LAMMPS, no i-PI
            return {"missing": str(reason)}
        except (Failed, LammpsError, RuntimeError, ValueError) as reason:
            return {"failed": str(reason)}
        size = {"n_atoms": sum(map(len, structures)), "n_neighbors": _neighbors(point.system, point.size, point.cutoff)}
        return size | found

    def _measured(self, code: Code, point: Point, structures: list[Atoms]) -> dict[str, Any]:
        cutoff = code.cutoff or point.cutoff
        if code.peer == "LAMMPS":
            return self._steps(code, point, structures[0], cutoff)
        if code.peer == "i-PI":
            return self._path_integrals(code.settings["way"])
        if code.peer == "memory":
            return self._memory(code.settings["style"], point.size)
        settings = dict(code.settings)
        if code.peer == "tesseral" and "model" in settings:
            settings["model"] = str(self._model(settings["model"], structures[0], cutoff))
        with TemporaryDirectory() as folder:
            return ask_worker(
                code,
                structures,
                Path(folder),
                self.interpreters,
                settings=settings,
                cutoff=cutoff,
                threads=point.threads,
                effort=self.effort,
            )

    def _model(self, model: str | Mapping[str, Any], atoms: Atoms, cutoff: float) -> Path:
        elements = [symbol for _, symbol in sorted(zip(atoms.numbers, atoms.get_chemical_symbols(), strict=True))]
        return self.models.path(model, list(dict.fromkeys(elements)), cutoff)

    def _steps(self, code: Code, point: Point, atoms: Atoms, cutoff: float) -> dict[str, Any]:
        from tesseral.benchmarks.comparison.lammps_steps import time_steps

        model = self._model(code.settings["model"], atoms, cutoff) if code.ours else None
        return time_steps(
            atoms,
            code.settings["potential"],
            cutoff,
            model=model,
            precision=code.precision,
            ranks=point.ranks,
            seconds=self.effort["seconds"],
            timeout=self.effort["timeout"],
        )

    def _path_integrals(self, way: str) -> dict[str, Any]:
        from tesseral.benchmarks import path_integrals
        from tesseral.calculator.ipi_process import ipi_missing

        reason = ipi_missing()
        if reason is not None:
            raise NotInstalled(reason)
        if way != "mace-torch":
            return {"seconds": [path_integrals.seconds_per_step(way, int(self.effort["steps"]))]}
        found = path_integrals.measure_mace(1)
        if "skipped" in found:
            raise NotInstalled(f"{found['skipped']} in the Python that runs i-PI")
        return {"seconds": [found["step"]], "versions": {"mace-torch": found["version"]}}

    def _memory(self, style: str, cells: int) -> dict[str, Any]:
        from tesseral.benchmarks.lammps import measure_memory

        found = measure_memory(int(self.effort["memory_steps"]), style=style, cells=cells)
        return {key: found[key] for key in ("steps", "resident_mb", "rebuilds")}


@lru_cache
def _neighbors(system: str, size: int, cutoff: float) -> float:
    """Mean number of neighbours."""
    from tesseral.calculator import neighbor_list

    counts = []
    for atoms in Point(0.0, system, size).structures():
        pbc = np.asarray(atoms.pbc)
        counts.append(len(neighbor_list(atoms.positions, atoms.cell.array, pbc, cutoff).neighbors) / len(atoms))
    return float(np.mean(counts))
