"""ML-PACE (Y. Lysogorskiy et al., doi:10.1038/s41524-021-00559-9) by python-ace, recursive evaluator."""

from __future__ import annotations

from typing import Any

import numpy as np
import protocol


def prepare(task: dict[str, Any], structures: list[protocol.Structure]) -> protocol.Prepared:
    """``settings``: ``functions`` per element, whose indices are limited about as in pacemaker's examples, and
    ``list_given``: whether the evaluator alone is timed, on the same positions each time."""
    from pyace import ACEBBasisSet, PyACECalculator, create_multispecies_basis_config

    configuration = create_multispecies_basis_config(
        {
            "deltaSplineBins": 0.001,
            "elements": protocol.symbols_of(structures),
            "embeddings": {
                "ALL": {
                    "npot": "FinnisSinclairShiftedScaled",
                    "fs_parameters": [1, 1, 1, 0.5],
                    "ndensity": 2,
                }
            },
            "bonds": {
                "ALL": {
                    "radbase": "SBessel",
                    "radparameters": [5.25],
                    "rcut": task["cutoff"],
                    "dcut": 0.01,
                    "NameOfCutoffFunction": "cos",
                }
            },
            "functions": {
                "number_of_functions_per_element": task["settings"]["functions"],
                "ALL": {"nradmax_by_orders": [15, 6, 4, 3, 2], "lmax_by_orders": [0, 4, 3, 2, 1]},
            },
        }
    )
    basis = ACEBBasisSet(configuration)
    basis.all_coeffs = np.random.default_rng(0).normal(0.0, 1e-3, len(basis.all_coeffs)).tolist()
    counts = [len(one) + len(more) for one, more in zip(basis.basis_rank1, basis.basis, strict=True)]  # of each element
    calculator = PyACECalculator(basis.to_ACECTildeBasisSet(), recursive_evaluator=True, recursive=True)
    call = protocol.ase_call(calculator, structures[0])
    if task["settings"]["list_given"]:
        environment = calculator.get_atomic_env(protocol.atoms_of(structures[0]))
        return protocol.Prepared(
            lambda positions: calculator.ace.compute(environment, compute_projections=False), ("python-ace",)
        )
    return protocol.Prepared(call, ("python-ace",), {"functions": counts})


if __name__ == "__main__":
    protocol.run(prepare)
