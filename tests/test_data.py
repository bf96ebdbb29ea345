"""Reading structures and labels, E0, edges and batches; ASE's own reader and neighbour list are the oracles."""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.neighborlist import neighbor_list

from tesseral.models.data import (
    batch_order,
    batches_by_atoms,
    build_structure,
    collate,
    find_edges,
    split_validation,
)
from tesseral.models.e0 import atomic_energies, separate_isolated_atoms
from tesseral.models.frames import (
    DataError,
    Frame,
    LabelKeys,
    frames_from_atoms,
    matrix_to_voigt,
    read_frames,
    voigt_to_matrix,
)


def labelled(atoms: Atoms, seed: int = 0, stress: bool = True, **info: Any) -> Atoms:
    """A copy with random REF labels."""
    rng = np.random.default_rng(seed)
    atoms = atoms.copy()
    atoms.info |= {"REF_energy": float(rng.normal()), **info}
    atoms.arrays["REF_forces"] = rng.normal(size=(len(atoms), 3))
    if stress:
        tensor = rng.normal(size=(3, 3))
        atoms.info["REF_stress"] = tensor + tensor.T
    return atoms


def water(**info: Any) -> Atoms:
    return labelled(molecule("H2O"), stress=False, **info)


def frame(atoms: Atoms, energy: float | None = None, config_type: str = "default", source: str = "frame") -> Frame:
    return Frame(atoms, energy, None, None, config_type, source)


@pytest.mark.parametrize("suffix", ["", ".xz", ".gz"])
def test_compressed_extended_xyz_reads_like_plain(tmp_path: Path, suffix: str) -> None:
    structures = [labelled(bulk("Si"), seed, config_type="a") for seed in range(3)]
    plain = tmp_path / "data.xyz"
    ase.io.write(plain, structures, format="extxyz")
    path = tmp_path / f"data.xyz{suffix}"
    if suffix:
        path.write_bytes((lzma if suffix == ".xz" else gzip).compress(plain.read_bytes()))
    frames, (report,) = read_frames(path)
    assert str(report) == f"{path.name}: 3 frames, 6 atoms; REF_energy in 3, REF_forces in 3, REF_stress in 3"
    for one, atoms in zip(frames, structures, strict=True):
        assert one.energy == pytest.approx(atoms.info["REF_energy"], abs=1e-9)
        np.testing.assert_allclose(one.forces, atoms.arrays["REF_forces"], atol=1e-7)
        np.testing.assert_allclose(one.stress, atoms.info["REF_stress"], atol=1e-7)
        assert one.config_type == "a" and len(one) == 2


def test_plain_labels_come_from_the_calculator_of_ase(tmp_path: Path) -> None:
    atoms = bulk("Si")
    forces, stress = np.full((2, 3), 0.25), np.arange(6.0)
    atoms.calc = SinglePointCalculator(atoms, energy=-3.0, forces=forces, stress=stress)
    ase.io.write(tmp_path / "plain.xyz", atoms, format="extxyz")
    ase.io.write(tmp_path / "plain.traj", atoms)
    for name in ("plain.xyz", "plain.traj"):
        (one,), (report,) = read_frames(tmp_path / name)
        assert "energy in 1, forces in 1, stress in 1" in str(report)
        assert one.energy == -3.0
        np.testing.assert_allclose(one.forces, forces)
        np.testing.assert_allclose(matrix_to_voigt(np.asarray(one.stress)), stress)


def test_any_subset_of_labels_is_accepted_per_frame() -> None:
    energy_only = water()
    del energy_only.arrays["REF_forces"]
    forces_only = water()
    del forces_only.info["REF_energy"]
    first, second, third = frames_from_atoms([energy_only, forces_only, molecule("H2O")])
    assert first.energy is not None and first.forces is None
    assert second.energy is None and second.forces is not None
    assert third.energy is None and third.forces is None and third.stress is None


def test_stress_offset_is_subtracted_from_the_diagonal() -> None:
    atoms = labelled(bulk("Cu"))
    (one,) = frames_from_atoms([atoms], LabelKeys(stress_offset=0.5))
    np.testing.assert_allclose(one.stress, atoms.info["REF_stress"] - 0.5 * np.eye(3))


def test_named_keys_are_used_and_false_ignores_a_label() -> None:
    atoms = water(dft=-7.0)
    (one,) = frames_from_atoms([atoms], LabelKeys(energy="dft", forces=False))
    assert one.energy == -7.0 and one.forces is None
    with pytest.raises(DataError, match=r"energy_key is 'DFT', which none of the 1 frames has; info keys.*dft"):
        frames_from_atoms([atoms], LabelKeys(energy="DFT"))


def test_mixed_label_kinds_are_refused_with_their_counts() -> None:
    plain = molecule("H2O")
    plain.info["energy"] = -1.0
    with pytest.raises(DataError, match=r"mixed label kinds: REF_energy in 2 frames, energy in 1 frames.*frame 2"):
        frames_from_atoms([water(), water(), plain])
    other_method = water()
    del other_method.arrays["REF_forces"]
    other_method.arrays["forces"] = np.zeros((3, 3))
    with pytest.raises(DataError, match=r"mixed label kinds: REF_energy in 1 frames, forces in 1 frames"):
        frames_from_atoms([other_method])
    (one,) = frames_from_atoms([other_method], LabelKeys(energy="REF_energy", forces="forces"))
    assert one.forces is not None


def test_plain_labels_beside_complete_reference_labels_are_not_used() -> None:
    both = water(energy=99.0)
    (one,) = frames_from_atoms([both])
    assert one.energy == both.info["REF_energy"]


def test_files_without_labels_or_frames_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bare.xyz"
    ase.io.write(path, molecule("H2O"), format="extxyz")
    with pytest.raises(DataError, match=r"bare\.xyz: none of the 1 frames has a label; expected REF_energy or ener"):
        read_frames(path)
    with pytest.raises(DataError, match=r"absent\.xyz: no such file"):
        read_frames(tmp_path / "absent.xyz")
    (tmp_path / "broken.xyz").write_text("2\nProperties=species:S:1:pos:R:3\nSi 0 0 0\n")
    with pytest.raises(DataError, match=r"broken\.xyz, frame 0 \(line 1\): cannot be read as structures"):
        read_frames(tmp_path / "broken.xyz")
    (tmp_path / "cut.xyz.xz").write_bytes(lzma.compress(path.read_bytes())[:-20])
    with pytest.raises(DataError, match=r"cut\.xyz\.xz: cannot be read as structures: EOFError"):
        read_frames(tmp_path / "cut.xyz.xz")
    (tmp_path / "empty.xyz").write_text("")
    with pytest.raises(DataError, match=r"empty\.xyz: (holds no frames|cannot be read)"):
        read_frames(tmp_path / "empty.xyz")


def refused(message: str, atoms: Atoms) -> None:
    with pytest.raises(DataError, match=message):
        frames_from_atoms([water(), atoms], source="data.xyz")


def test_bad_numbers_are_refused_by_frame_and_atom() -> None:
    nan_position, nan_force = water(), water()
    nan_position.positions[2, 1] = np.nan
    nan_force.arrays["REF_forces"][1, 0] = np.inf
    refused(r"data\.xyz, frame 1: atom 2 has the position .*nan.*must be finite", nan_position)
    refused(r"data\.xyz, frame 1, atom 1: the force label is not finite: \[inf", nan_force)
    refused(r"data\.xyz, frame 1: the energy label is not finite: nan", water(REF_energy=np.nan))
    refused(r"frame 1: the energy label has shape \(2,\), expected one number", water(REF_energy=[1.0, 2.0]))
    refused(r"frame 1: the energy label is not numeric: 'high'", water(REF_energy="high"))
    wide = water()
    wide.arrays["REF_forces"] = np.zeros((3, 2))
    refused(r"frame 1: the forces label has shape \(3, 2\), expected \(3, 3\)", wide)
    no_element = water()
    no_element.numbers[1] = 0
    refused(r"frame 1: atom 1 has no element \(X\)", no_element)
    refused(r"frame 1: has no atoms", Atoms(info={"REF_energy": 0.0}))


def test_bad_cells_and_stresses_are_refused() -> None:
    no_cell = water()
    no_cell.pbc = True
    refused(r"data\.xyz, frame 1: direction 0 is periodic, but its cell vector is \[0\.0, 0\.0, 0\.0\]", no_cell)
    refused(r"frame 1: .*periodic in 0 of 3 directions and has no volume", water(REF_stress=np.eye(3)))
    refused(r"frame 1: the stress label has shape \(4,\)", labelled(bulk("Si"), stress=False, REF_stress=np.ones(4)))
    crystal = labelled(bulk("Si"))
    crystal.info["REF_stress"] = np.triu(np.ones((3, 3)))
    refused(r"frame 1: the stress label is not symmetric", crystal)
    crystal.info["REF_stress"] = np.full(6, np.nan)
    refused(r"frame 1: the stress label is not finite", crystal)


def test_voigt_order_is_that_of_ase() -> None:
    tensor = np.array([[1.0, 6.0, 5.0], [6.0, 2.0, 4.0], [5.0, 4.0, 3.0]])
    np.testing.assert_array_equal(matrix_to_voigt(tensor), [1, 2, 3, 4, 5, 6])
    np.testing.assert_array_equal(voigt_to_matrix(np.arange(1.0, 7.0)), tensor)


@pytest.mark.parametrize("pbc", [(True, True, True), (True, True, False), (False, False, False)])
def test_edges_equal_the_neighbour_list_of_ase(pbc: tuple[bool, bool, bool]) -> None:
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.2, seed=1)
    atoms.positions[:3] += 7.0
    atoms.pbc = pbc
    centers, neighbors, vectors = find_edges(atoms, 5.0, "frame")
    expected = neighbor_list("ijD", atoms, 5.0)
    assert len(centers) == len(expected[0])
    assert (np.diff(centers) >= 0).all()

    def table(i: np.ndarray, j: np.ndarray, d: np.ndarray) -> np.ndarray:
        rows = np.column_stack([i, j, d.round(9) + 0.0])
        return rows[np.lexsort(rows.T)]

    np.testing.assert_allclose(table(centers, neighbors, vectors), table(*expected), atol=1e-8)


def test_coinciding_atoms_and_unknown_elements_are_refused() -> None:
    double = Atoms("H2", positions=[[0, 0, 0], [0, 0, 1e-5]])
    with pytest.raises(DataError, match=r"frame 3: atoms 0 and 1 .*coincide: distance 1\.0e-05 Å"):
        find_edges(double, 3.0, "frame 3")
    with pytest.raises(DataError, match=r"frame 3, atom 0: element O is not among .* training data: H, C"):
        build_structure(frame(molecule("H2O"), source="frame 3"), ["H", "C"], 3.0, np.zeros(2), torch.float32)


def test_batch_holds_the_same_edges_and_labels_as_its_structures() -> None:
    structures = [labelled(bulk("Si"), 1), labelled(bulk("Si", cubic=True), 2), labelled(bulk("Si"), 3)]
    frames = frames_from_atoms([*structures, Atoms("Si", info={"REF_energy": -1.0})])
    singles = [build_structure(f, ["O", "Si"], 4.0, np.array([0.0, -2.0]), torch.float64) for f in frames]
    batch = collate(singles)
    assert batch.n_atoms.tolist() == [2, 8, 2, 1]
    assert batch.structure.tolist() == [0] * 2 + [1] * 8 + [2] * 2 + [3]
    assert batch.has_stress.tolist() == [True, True, True, False]
    assert batch.has_forces.tolist() == [True, True, True, False]
    assert batch.species.tolist() == [1] * 13
    for f, energy in zip(frames, batch.energy.tolist(), strict=True):
        assert energy == pytest.approx((f.energy or 0.0) + 2.0 * len(f), abs=1e-12)
    second = batch.edge_structure == 1
    assert torch.equal(batch.centers[second] - 2, singles[1].centers)
    assert torch.equal(batch.neighbors[second] - 2, singles[1].neighbors)
    assert torch.equal(batch.vectors[second], singles[1].vectors)
    assert batch.volume[1] == pytest.approx(structures[1].get_volume())
    assert singles[0].centers.max() == 1  # collating leaves the structures alone


def test_batches_by_atoms_keep_the_order_and_the_limit() -> None:
    frames = frames_from_atoms([labelled(bulk("Si") * (n, 1, 1), n) for n in (1, 2, 5, 1)])
    singles = [build_structure(f, ["Si"], 3.0, np.zeros(1), torch.float32) for f in frames]
    sizes = [batch.n_atoms.tolist() for batch in batches_by_atoms(singles, 6)]
    assert sizes == [[2, 4], [10], [2]]


def test_order_of_batches_depends_on_seed_and_epoch_only() -> None:
    assert batch_order(10, 4, 1, 5) == batch_order(10, 4, 1, 5)
    assert batch_order(10, 4, 1, 5) != batch_order(10, 4, 1, 6)
    assert batch_order(10, 4, 1, 5) != batch_order(10, 4, 2, 5)
    assert sorted(index for batch in batch_order(10, 4, 1, 5) for index in batch) == list(range(10))
    assert [len(batch) for batch in batch_order(10, 4, 1, 5)] == [4, 4, 2]


def test_validation_takes_its_share_of_every_config_type() -> None:
    frames = [frame(Atoms("H"), 0.0, "AIMD" if n % 2 else "Elastic", str(n)) for n in range(40)]
    training, validation = split_validation(frames, 0.2, seed=3)
    assert len(validation) == 8 and len(training) == 32
    assert sum(one.config_type == "AIMD" for one in validation) == 4
    assert {one.source for one in training} | {one.source for one in validation} == set(map(str, range(40)))
    assert [one.source for one in split_validation(frames, 0.2, seed=4)[1]] != [one.source for one in validation]
    with pytest.raises(DataError, match=r"data\.validation: 0\.01 of 40 frames is 0; training and validation both"):
        split_validation(frames, 0.01, seed=3)


def test_isolated_atoms_are_separated_from_one_atom_crystals() -> None:
    crystal = frame(bulk("Cu"), -3.0, "bulk")
    atom = frame(Atoms("Cu", cell=[20, 20, 20], pbc=True), -0.5, "IsolatedAtom")
    others, isolated = separate_isolated_atoms([crystal, atom], 5.0)
    assert others == [crystal] and isolated == [atom]
    dense = frame(bulk("Cu"), -0.5, "IsolatedAtom", "data.xyz, frame 7")
    with pytest.raises(DataError, match=r"data\.xyz, frame 7: config_type is IsolatedAtom, but .* cutoff of 5 Å"):
        separate_isolated_atoms([dense], 5.0)


def test_e0_by_least_squares_solves_for_the_elements() -> None:
    frames = [frame(molecule(name), None, source=name) for name in ("H2O", "CO2", "CH4", "H2", "CO")]
    true = {"H": -13.6, "C": -1027.0, "O": -2040.0}
    labelled_frames = [frame(f.atoms, sum(true[s] for s in f.atoms.symbols)) for f in frames]
    fitted = atomic_energies("least_squares", labelled_frames, [], ["H", "C", "O"])
    assert fitted == pytest.approx(true)
    with pytest.raises(DataError, match=r"least_squares needs energies, but no training frame has one"):
        atomic_energies("least_squares", frames, [], ["H", "C", "O"])


def test_e0_given_or_from_isolated_atoms_names_missing_elements() -> None:
    hydrogen = frame(Atoms("H"), -13.0, source="a")
    unlabelled = frame(Atoms("O"), None, source="b")
    assert atomic_energies("isolated_atoms", [], [hydrogen], ["H"]) == {"H": -13.0}
    assert atomic_energies({"H": -1, "O": -2}, [], [], ["H"]) == {"H": -1.0}
    with pytest.raises(DataError, match=r"isolated atoms in the training data: no energy of O; the data holds H, O"):
        atomic_energies("isolated_atoms", [], [hydrogen, unlabelled], ["H", "O"])
    with pytest.raises(DataError, match=r"model\.e0: no energy of O"):
        atomic_energies({"H": -1.0}, [], [], ["H", "O"])
    with pytest.raises(DataError, match=r"frame 9: isolated H has -12\.0 eV, an earlier frame -13\.0 eV"):
        atomic_energies("isolated_atoms", [], [hydrogen, frame(Atoms("H"), -12.0, source="frame 9")], ["H"])


def test_the_frame_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "data.xyz"
    frame = "1\nProperties=species:S:1:pos:R:3 REF_energy=-1.0\nSi 0 0 0\n"
    for broken, message in (
        (frame.replace("Si", "Qq"), r"data\.xyz, frame 2 \(line 7\): cannot be read as structures: KeyError: 'Qq'"),
        (frame[:-9], r"data\.xyz, frame 2 \(line 7\): cannot be read"),
        ("one" + frame, r"data\.xyz, frame 2 \(line 7\): cannot be read"),
    ):
        path.write_text(2 * frame + broken)
        with pytest.raises(DataError, match=message):
            read_frames(path)


def test_atomic_numbers_outside_the_periodic_table_are_refused() -> None:
    unknown = water()
    unknown.numbers[2] = 200
    refused(r"data\.xyz, frame 1: atom 2 has the atomic number 200", unknown)


def test_label_kinds_that_differ_between_files_are_refused(tmp_path: Path) -> None:
    atoms = molecule("H2O")
    atoms.info["REF_energy"] = -14.0
    ase.io.write(tmp_path / "a.xyz", atoms, format="extxyz")
    plain = molecule("H2O")
    plain.calc = SinglePointCalculator(plain, energy=-14.0)
    ase.io.write(tmp_path / "c.xyz", plain, format="extxyz")
    with pytest.raises(DataError, match=r"two kinds of energy labels: REF_energy in .*a\.xyz, energy in .*c\.xyz"):
        read_frames([tmp_path / "a.xyz", tmp_path / "c.xyz"])
