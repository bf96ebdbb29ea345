"""Optimisation steps of mace-torch in a process of its own: `python -m tesseral.benchmarks.mace_training`.

The process makes a step each time it is asked, so that it can take turns with something else.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from contextlib import redirect_stdout
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import Any, cast

from ase import Atoms

from tesseral.benchmarks.peers import MACE_SETTING, failure

ENERGY_WEIGHT, FORCES_WEIGHT = 1.0, 100.0  # those of mace_run_train
LEARNING_RATE = 1e-4
CLIPPED_NORM = 10.0  # of the gradient, as in mace_run_train


class MaceSteps:
    """A process that makes optimisation steps of a mace-torch model in float32; a context manager.

    model: .model file, a pickle that is trusted.  structures: file with REF_energy and REF_forces, the batch.
    device: as torch names it.

    Raises RuntimeError if the process fails, with the last line of its errors.
    """

    def __init__(self, model: Path, structures: Path, device: str = "cpu") -> None:
        command = [sys.executable, "-m", __name__, str(model), str(structures), "--device", device]
        pipe, environment = subprocess.PIPE, {**os.environ, **MACE_SETTING}
        self.errors = TemporaryFile("w+", encoding="utf-8")
        self.process = subprocess.Popen(
            command, env=environment, stdin=pipe, stdout=pipe, stderr=self.errors, text=True
        )
        try:
            self.version: str = self._answer()["version"]
        except BaseException:
            self.close()
            raise

    def seconds(self, threads: int) -> float:
        """Wall time of one step on so many threads, after one that is not timed."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{threads}\n")
        self.process.stdin.flush()
        return float(self._answer()["seconds"])

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.communicate()
            self.errors.seek(0)
            finished = subprocess.CompletedProcess([], self.process.returncode, "", self.errors.read())
            raise RuntimeError(failure(finished, "mace-torch does not train here"))
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()
        self.errors.close()

    def __enter__(self) -> MaceSteps:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Step:
    """One step as mace_run_train makes it, with its loss, optimiser and clipping."""

    def __init__(self, model: Any, structures: list[Atoms], device: str) -> None:
        import torch
        from mace import data, modules, tools
        from mace.tools import torch_geometric
        from mace.tools.scripts_utils import get_params_options

        keys = data.KeySpecification(info_keys={"energy": "REF_energy"}, arrays_keys={"forces": "REF_forces"})
        numbers = tools.AtomicNumberTable([int(number) for number in model.atomic_numbers])
        graphs = [
            data.AtomicData.from_config(data.config_from_atoms(atoms, keys), numbers, cutoff=float(model.r_max))
            for atoms in structures
        ]
        self.batch = torch_geometric.Batch.from_data_list(graphs)
        self.device = torch.device(device)
        self.model = model.float().to(self.device)
        settings = argparse.Namespace(
            lr=LEARNING_RATE, weight_decay=5e-7, amsgrad=True, beta=0.9, freeze=None, lr_params_factors="{}"
        )
        self.optimizer = torch.optim.Adam(**get_params_options(settings, self.model))
        self.loss = modules.WeightedEnergyForcesLoss(ENERGY_WEIGHT, FORCES_WEIGHT)
        self.outputs = {"forces": True, "virials": False, "stress": False}

    def __call__(self) -> float:
        import torch
        from mace.tools.train import take_step

        started = time.perf_counter()
        take_step(self.model, self.loss, self.batch, self.optimizer, None, self.outputs, CLIPPED_NORM, self.device)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - started


def main() -> None:
    """Read the model and the batch; then a line with a number of threads asks for a step and is answered in JSON."""
    import torch
    from ase.io import read

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("structures", help="file that ASE reads")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of the other package
    torch.set_default_dtype(torch.float32)
    answers = sys.stdout
    with redirect_stdout(sys.stderr):  # what the other package prints
        model = torch.load(options.model, map_location="cpu", weights_only=False)
        step = _Step(model, cast("list[Atoms]", read(options.structures, ":")), options.device)
        print(json.dumps({"version": version("mace-torch")}), file=answers, flush=True)
        for line in sys.stdin:
            torch.set_num_threads(int(line))
            step()
            print(json.dumps({"seconds": step()}), file=answers, flush=True)


if __name__ == "__main__":
    main()
