"""Workers as processes: which Python has which code, our model files, and what a worker answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

import tesseral
from tesseral.benchmarks.comparison.codes import PEERS, WORKERS, Code
from tesseral.benchmarks.peers import MALLOC_SETTING, failure
from tesseral.benchmarks.systems import write_random_model
from tesseral.models.presets import PRESETS
from tesseral.models.registry import nearest

#: the folder that Python imports tesseral from
SOURCES = str(Path(tesseral.__file__).parent.parent)
VERSION = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"


class NotInstalled(Exception):
    """A code that is not there, and how to install it."""


class Failed(Exception):
    """A code that does not run here, and its own words."""


class Interpreters:
    """The Python of each peer: the one given for it, or else this one."""

    def __init__(self, given: Mapping[str, str]) -> None:
        """
        Args:
            given: path of a Python by the name of the peer.

        Raises:
            ValueError: a name that is not in PEERS.
            FileNotFoundError: no such program.
        """
        for name, path in given.items():
            if name not in PEERS:
                raise ValueError(
                    f"--peer-python {name}: no such peer{nearest(name, PEERS)} (peers: {', '.join(PEERS)})"
                )
            if not os.access(path, os.X_OK):
                raise FileNotFoundError(f"--peer-python {name}: {path} is not a program")
        self._given = dict(given)
        self._versions: dict[str, str | None] = {}

    def python(self, peer: str) -> str:
        """Its Python.  Raises NotInstalled if the package is not there."""
        if self.version(peer) is None:
            place = "this Python" if peer not in self._given else self._given[peer]
            raise NotInstalled(f"not installed in {place}: {PEERS[peer].install}")
        return self._given.get(peer, sys.executable)

    def version(self, peer: str) -> str | None:
        """Of the package, or None if it is not installed; asked once."""
        if peer not in self._versions:
            command = [self._given.get(peer, sys.executable), "-c", VERSION, PEERS[peer].package]
            asked = subprocess.run(command, capture_output=True, text=True, check=False)
            self._versions[peer] = asked.stdout.strip() if asked.returncode == 0 else None
        return self._versions[peer]


class ModelFiles:
    """Our models with random weights, written when they are first asked for."""

    def __init__(self, folder: Path, interpreters: Interpreters) -> None:
        self.folder, self.interpreters = folder, interpreters
        self._paths: dict[str, Path] = {}

    def path(self, model: str | Mapping[str, Any], elements: Sequence[str], cutoff: float) -> Path:
        """A model file for these elements.

        Args:
            model: name of a preset, sizes as in a preset, or "mace".
            cutoff: Å.

        Raises:
            NotInstalled: "mace" without mace-torch.
            Failed: the MACE model cannot be written or imported.
        """
        key = json.dumps([model, list(elements), cutoff])
        if key not in self._paths:
            path = self.folder / f"model{len(self._paths)}.pt"
            if model == "mace":
                self._import_mace(path, elements, cutoff)
            else:
                sizes: Mapping[str, Any] = PRESETS[model]["model"] if isinstance(model, str) else model
                write_random_model(path, species=list(elements), cutoff=cutoff, **sizes)
            self._paths[key] = path
        return self._paths[key]

    def _import_mace(self, path: Path, elements: Sequence[str], cutoff: float) -> None:
        python = self.interpreters.python("mace-torch")
        script = str(Path(__file__).parent / "make_imported.py")
        numbers = [str(atomic_numbers[element]) for element in elements]
        finished = subprocess.run(
            [python, script, str(path), str(cutoff), *numbers],
            env=_environment(1, ours=True),
            capture_output=True,
            text=True,
            check=False,
        )
        if finished.returncode != 0 or not path.exists():
            raise Failed(failure(finished, "MACE cannot be imported here"))


def ask_worker(
    code: Code,
    structures: Sequence[Atoms],
    folder: Path,
    interpreters: Interpreters,
    *,
    settings: Mapping[str, Any],
    cutoff: float,
    threads: int,
    effort: Mapping[str, Any],
) -> dict[str, Any]:
    """What the worker of a code answers, see `workers/protocol.py`.

    Args:
        code: that is timed.
        structures: written to `folder`.
        interpreters: that have the peers.
        settings: of the worker.
        cutoff: Å.
        threads: of the worker.
        effort: ``seconds``, ``least_calls``, ``most_calls`` and ``timeout`` in seconds.

    Raises:
        NotInstalled, Failed: it does not run; a worker that takes too long has failed.
    """
    ours = code.peer == "tesseral"
    python = sys.executable if ours else interpreters.python(code.peer)
    worker = WORKERS / ("run_tesseral.py" if ours else PEERS[code.peer].worker)
    task = {
        "structures": [_saved(atoms, folder / f"structure{k}.npz") for k, atoms in enumerate(structures)],
        "precision": code.precision,
        "threads": threads,
        "cutoff": cutoff,
        "settings": dict(settings),
        **{key: effort[key] for key in ("seconds", "least_calls", "most_calls")},
    }
    (folder / "task.json").write_text(json.dumps(task), encoding="utf-8")
    command = [python, str(worker), str(folder / "task.json")]
    try:
        finished = subprocess.run(
            command,
            env=_environment(threads, ours),
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=effort["timeout"],
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Failed(f"took longer than {effort['timeout']:g} s") from error
    answers = [line for line in finished.stdout.splitlines() if line.startswith("{")]
    if not answers:
        raise Failed(failure(finished, "its process ended without an answer"))
    answer: dict[str, Any] = json.loads(answers[-1])
    if "failed" in answer:
        raise Failed(answer["failed"])
    return answer


def _environment(threads: int, ours: bool) -> dict[str, str]:
    """The same malloc for all; only our own worker imports tesseral."""
    count = str(threads)
    setting = {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "OPENBLAS_NUM_THREADS": count}
    setting |= {"NUMBA_NUM_THREADS": count, "RAYON_NUM_THREADS": count, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
    environment = {**os.environ, **MALLOC_SETTING, **setting}
    environment.pop("PYTHONPATH", None)
    if ours:
        environment["PYTHONPATH"] = SOURCES
    return environment


def _saved(atoms: Atoms, path: Path) -> str:
    arrays = {"numbers": atoms.numbers, "positions": atoms.positions, "cell": atoms.cell.array, "pbc": atoms.pbc}
    if "REF_forces" in atoms.arrays:
        arrays["forces"] = atoms.arrays["REF_forces"]
        arrays["energy"], arrays["stress"] = np.array(atoms.info["REF_energy"]), atoms.info["REF_stress"]
    np.savez(path, **arrays)
    return str(path)
