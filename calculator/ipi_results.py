"""A script that runs input.xml of the working directory with i-PI's engine and saves the last step with all digits.

i-PI's program writes forces with few digits, and no potential and virial of single beads.
"""

from __future__ import annotations

import sys

import numpy as np


def main() -> None:
    """Write last.npz, in i-PI's internal units.

    For system I: q_I and f_I [n_beads, 3 n_atoms]; h_I [3, 3]; pots_I [n_beads]; virs_I [n_beads, 3, 3], upper
    triangles; extras_I, the atomic energies [n_beads, n_atoms] where there are any. And the units angstrom,
    electronvolt and force (eV/Å).
    """
    sys.argv[:] = ["i-pi"]  # so that errors of the driver end the run with one line
    from ipi.engine.simulation import Simulation
    from ipi.utils.softexit import softexit
    from ipi.utils.units import unit_to_internal

    results = {
        "angstrom": unit_to_internal("length", "angstrom", 1.0),
        "electronvolt": unit_to_internal("energy", "electronvolt", 1.0),
        "force": unit_to_internal("force", "ev/ang", 1.0),
    }
    with open("input.xml") as file:
        simulation = Simulation.load_from_xml(file)
    softexit.hard_exit = True
    simulation.run()
    for index, system in enumerate(simulation.syslist):
        forces = system.forces
        arrays = {"q": system.beads.q, "f": forces.f, "h": system.cell.h, "pots": forces.pots, "virs": forces.virs}
        arrays["extras"] = forces.extras.get("atomic_energies", [])
        results.update({f"{name}_{index}": np.array(array) for name, array in arrays.items()})
    np.savez("last.npz", **results)
    softexit.trigger(status="success")


if __name__ == "__main__":
    main()
