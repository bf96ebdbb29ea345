"""Opening a MACE model, and refusing by name what cannot be imported."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

MODELS = ("MACE", "ScaleShiftMACE")
DENSITY_BLOCKS = ("RealAgnosticDensityInteractionBlock", "RealAgnosticDensityResidualInteractionBlock")
RESIDUAL_BLOCKS = ("RealAgnosticResidualInteractionBlock", "RealAgnosticDensityResidualInteractionBlock")
INTERACTIONS = ("RealAgnosticInteractionBlock", *DENSITY_BLOCKS, RESIDUAL_BLOCKS[0])
READOUTS = ("LinearReadoutBlock", "NonLinearReadoutBlock", "NonLinearBiasReadoutBlock")
RADIAL_BASES = ("BesselBasis", "ChebychevBasis", "GaussianBasis")
TRANSFORMS = ("AgnesiTransform", "SoftTransform")
MAXIMUM_LAYERS = 3
MAXIMUM_CORRELATION = 3
MAXIMUM_MESSAGE_L = 2

PICKLE = (
    "a MACE model is a Python pickle, and a pickle can run any program with your rights when it is opened; open it "
    "only if you trust where it comes from, and say so with --trust-pickle (trust_pickle=True in Python). The file "
    "that is written holds no pickle"
)


class MaceImportError(ValueError):
    """A MACE model that is not imported; the message names the file, what is in the way and what to do."""


def mace_version() -> str:
    """Version of the installed mace-torch, which is imported here.

    Raises ImportError that says how to install it.
    """
    try:
        with _quietly():
            import mace.calculators  # noqa: F401
        return version("mace-torch")
    except (ImportError, PackageNotFoundError) as error:
        raise ImportError(
            "importing a MACE model needs mace-torch, for the conversion only: pip install 'tesseral[mace]' "
            f"({type(error).__name__}: {error})"
        ) from error


@contextlib.contextmanager
def mace_session() -> Iterator[None]:
    """What the code of mace-torch expects while it runs: float64 by default; its notices and warnings are dropped."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _quietly():
            yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """e3nn reads its constants with torch.load; importing mace changes the environment: both end here."""
    environment = dict(os.environ)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            with torch.serialization.safe_globals([slice]):
                yield
    finally:
        for name in set(os.environ) - set(environment):
            del os.environ[name]
        os.environ.update(environment)


def load_mace(path: Path, trust_pickle: bool) -> tuple[Any, bool]:
    """The MACE model of a file, in float64 on the CPU, and whether it was stored in single precision.

    Raises:
        MaceImportError: the file may not be opened without `trust_pickle`, or is no MACE model that can be imported.
        ImportError: mace-torch is missing.
        OSError: the file cannot be read.
    """
    _refuse_other_files(path)
    if not trust_pickle:
        raise MaceImportError(f"{path}: not opened: {PICKLE}")
    mace_version()
    with mace_session():
        try:
            model = torch.load(path, map_location="cpu", weights_only=False)
        except ModuleNotFoundError as error:
            raise MaceImportError(
                f"{path}: opening it needs the Python package {error.name!r}; a model that was converted for "
                "cuequivariance or openequivariance must be converted back on the machine where that is installed: "
                "mace_cueq_to_e3nn, or mace.cli.convert_oeq_e3nn"
            ) from error
        except Exception as error:  # unpickling runs foreign code, which can raise anything
            raise MaceImportError(f"{path}: cannot be opened by torch.load: {type(error).__name__}: {error}") from error
        refuse_unsupported(model, path)
        is_single = any(parameter.dtype != torch.float64 for parameter in model.parameters())
        model = model.double().eval()
        for parameter in model.parameters():
            parameter.requires_grad_(False)
    return model, is_single


def _refuse_other_files(path: Path) -> None:
    """Files that are known by their outside."""
    with open(path, "rb"):  # the usual errors of a missing or unreadable file
        pass
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        names = [name.partition("/")[2] for name in archive.namelist()]
    if "extra/metadata.json" in names:
        raise MaceImportError(f"{path}: is a Tesseral model already")
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        raise MaceImportError(
            f"{path}: is a compiled TorchScript model, which no longer says what it computes; import the original "
            ".model that it was compiled from"
        )


def refuse_unsupported(model: Any, path: Path) -> None:
    """Raises MaceImportError, naming it, for anything in the model that MaceModel does not compute exactly."""
    if not isinstance(model, torch.nn.Module):
        raise MaceImportError(
            f"{path}: holds a {type(model).__name__}, not a model; import the .model that mace-torch writes at the end "
            "of a training, not a checkpoint"
        )
    _expect(path, "the model", model, MODELS, "mace.modules.models")
    for name, module in model.named_modules():
        package = type(module).__module__.partition(".")[0]
        settings = getattr(module, "cueq_config", None)
        if package.startswith(("cuequivariance", "openequivariance")) or getattr(settings, "enabled", False):
            raise MaceImportError(
                f"{path}: {name} was converted for cuequivariance or openequivariance; convert the model back first: "
                "mace_cueq_to_e3nn, or mace.cli.convert_oeq_e3nn"
            )
        if type(module).__name__.startswith("LoRA"):
            raise MaceImportError(
                f"{path}: {name} is a {type(module).__name__}; merge the adapters first: "
                "mace.modules.lora.merge_lora_weights"
            )
    if getattr(model, "use_so3", False):
        raise MaceImportError(f"{path}: use_so3: features without parity cannot be imported")
    if hasattr(model, "joint_embedding"):
        names = ", ".join(getattr(model, "embedding_specs", {}))
        raise MaceImportError(f"{path}: embeddings of further inputs ({names}) cannot be imported")
    _refuse_parts(model, path)


def _refuse_parts(model: Any, path: Path) -> None:
    radial = model.radial_embedding
    _expect(path, "the radial basis", radial.bessel_fn, RADIAL_BASES)
    _expect(path, "the cutoff function", radial.cutoff_fn, ("PolynomialCutoff",))
    if hasattr(radial, "distance_transform"):
        _expect(path, "the distance transform", radial.distance_transform, TRANSFORMS)
    if hasattr(model, "pair_repulsion_fn"):
        _expect(path, "the pair repulsion", model.pair_repulsion_fn, ("ZBLBasis",))
    _expect(path, "the node embedding", model.node_embedding, ("LinearNodeEmbeddingBlock",))
    if not 1 <= len(model.interactions) <= MAXIMUM_LAYERS:
        raise MaceImportError(f"{path}: has {len(model.interactions)} interactions; can be imported: 1, 2, 3")
    for index, interaction in enumerate(model.interactions):
        _expect(path, f"interaction {index}", interaction, INTERACTIONS)
        _expect(path, f"the radial network of interaction {index}", interaction.conv_tp_weights, ("FullyConnectedNet",))
        _expect(path, f"the tensor product of interaction {index}", interaction.conv_tp, ("TensorProduct",))
    for index, product in enumerate(model.products):
        _expect(path, f"product {index}", product, ("EquivariantProductBasisBlock",))
        contraction = product.symmetric_contractions
        _expect(path, f"the contraction of product {index}", contraction, ("SymmetricContraction",))
        orders = {int(part.correlation) for part in contraction.contractions}
        if len(orders) != 1 or max(orders) > MAXIMUM_CORRELATION:
            raise MaceImportError(
                f"{path}: product {index} has correlation {', '.join(map(str, sorted(orders)))}; can be imported: one "
                f"of 1 to {MAXIMUM_CORRELATION}"
            )
    if len(model.readouts) not in (1, len(model.interactions)):
        raise MaceImportError(
            f"{path}: has {len(model.readouts)} readouts for {len(model.interactions)} interactions; can be imported: "
            "one for each, or one for the last"
        )
    for index, readout in enumerate(model.readouts):
        _expect(path, f"readout {index}", readout, READOUTS)


def _expect(path: Path, what: str, module: Any, names: Sequence[str], package: str = "") -> None:
    """A class by its name, from mace or e3nn."""
    kind = type(module)
    origin = kind.__module__
    known = origin == package if package else origin.partition(".")[0] in ("mace", "e3nn")
    if kind.__name__ not in names or not known:
        name = kind.__name__ if known else f"{kind.__name__} of {origin}"
        raise MaceImportError(f"{path}: {what} is a {name}, which cannot be imported; known: {', '.join(names)}")
