"""The error table: numbers against NumPy on known errors, groups, absent labels, units."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from rich.console import Console

from tesseral.models.frames import Frame, matrix_to_voigt
from tesseral.models.metrics import error_table, print_error_table, statistics, table_rows


def frame(atoms: Atoms, config_type: str, labels: str) -> Frame:
    rng = np.random.default_rng(len(atoms))
    stress = rng.normal(size=(3, 3))
    return Frame(
        atoms=atoms,
        energy=float(rng.normal()) if "e" in labels else None,
        forces=rng.normal(size=(len(atoms), 3)) if "f" in labels else None,
        stress=stress + stress.T if "s" in labels else None,
        config_type=config_type,
        source=f"data.xyz, frame of {atoms.symbols}",
    )


def predictions(frames: list[Frame], seed: int = 1) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return [
        {"energy": rng.normal(), "forces": rng.normal(size=(len(f), 3)), "stress": rng.normal(size=6)} for f in frames
    ]


FRAMES = [
    frame(molecule("H2O"), "molecule", "ef"),
    frame(molecule("CH4"), "molecule", "e"),
    frame(bulk("C"), "bulk", "efs"),
]


def test_table_equals_errors_written_out() -> None:
    predicted = predictions(FRAMES)
    table = error_table(FRAMES, predicted)
    energy = [1000 * (p["energy"] - f.energy) / len(f) for f, p in zip(FRAMES, predicted, strict=True)]
    assert table["n_frames"] == 3 and table["n_atoms"] == 10
    expected = {"mae": np.mean(np.abs(energy)), "rmse": np.linalg.norm(energy) / 3**0.5, "max": np.abs(energy).max()}
    assert table["energy_per_atom"] == pytest.approx(expected | {"count": 3})
    forces = 1000 * np.concatenate([predicted[i]["forces"] - FRAMES[i].forces for i in (0, 2)])
    assert table["forces"]["mae"] == pytest.approx(np.abs(forces).mean())
    assert table["forces"]["rmse"] == pytest.approx(np.linalg.norm(forces) / np.sqrt(forces.size))
    stress = 1000 * (predicted[2]["stress"] - matrix_to_voigt(np.asarray(FRAMES[2].stress)))
    assert table["stress"]["max"] == pytest.approx(np.abs(stress).max())
    assert table["stress"]["count"] == 6


def test_groups_hold_their_own_frames_and_atoms() -> None:
    predicted = predictions(FRAMES)
    table = error_table(FRAMES, predicted)
    assert list(table["per_config_type"]) == ["bulk", "molecule"]
    alone = error_table(FRAMES[2:], predicted[2:])
    for key in ("energy_per_atom", "forces", "stress", "n_frames"):
        assert table["per_config_type"]["bulk"][key] == alone[key]
    assert table["per_config_type"]["molecule"]["stress"] is None
    assert list(table["per_element"]) == ["H", "C", "O"]
    oxygen = 1000 * (predicted[0]["forces"][0] - np.asarray(FRAMES[0].forces)[0])
    assert table["per_element"]["O"]["forces"]["mae"] == pytest.approx(np.abs(oxygen).mean())
    assert table["per_element"]["C"] == {"n_atoms": 3, "forces": alone["forces"]}


def test_absent_labels_give_null() -> None:
    table = error_table(FRAMES[1:2], predictions(FRAMES[1:2]))
    assert table["forces"] is None and table["stress"] is None
    assert table["energy_per_atom"]["count"] == 1
    assert table["per_element"]["H"]["forces"] is None
    assert statistics([]) is None


def test_stress_is_compared_as_matrix_or_voigt() -> None:
    (predicted,) = predictions(FRAMES[2:])
    matrix = predicted | {"stress": predicted["stress"][[[0, 5, 4], [5, 1, 3], [4, 3, 2]]]}
    assert error_table(FRAMES[2:], [predicted]) == error_table(FRAMES[2:], [matrix])


def test_missing_or_infinite_predictions_are_refused() -> None:
    (predicted,) = predictions(FRAMES[2:])
    with pytest.raises(ValueError, match=r"frame of C2: has a stress label, but no stress was predicted"):
        error_table(FRAMES[2:], [predicted | {"stress": None}])
    with pytest.raises(ValueError, match=r"frame of C2: the predicted energy_per_atom is not finite"):
        error_table(FRAMES[2:], [predicted | {"energy": float("nan")}])
    with pytest.raises(ValueError, match="3 frames, but 1 predictions"):
        error_table(FRAMES, [predicted])


def test_rows_of_the_printed_table() -> None:
    table = error_table(FRAMES, predictions(FRAMES))
    rows = table_rows(table)
    assert [row[0] for row in rows] == ["all", "bulk", "molecule", "atoms of H", "atoms of C", "atoms of O"]
    assert rows[2][6:] == ("-", "-")
    console = Console(record=True, width=120, file=io.StringIO())
    print_error_table(console, "test", table)
    assert "meV/atom" in console.export_text()
