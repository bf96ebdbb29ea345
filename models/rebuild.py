"""From a model file back to a model that can be trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from tesseral.models.energy_model import EnergyModel
from tesseral.models.file import ModelFile, ModelFileError, load_torchscript, read_model
from tesseral.models.layered import LayeredModel
from tesseral.models.local import LocalModel
from tesseral.models.mace import MaceModel
from tesseral.models.optimisation import copy_into

#: the class of each ``model_type``; a class needs no more than `EnergyModel.arguments_of_file` to be listed here
MODEL_CLASSES: dict[str, type[EnergyModel]] = {one.model_type: one for one in (LocalModel, LayeredModel, MaceModel)}
#: largest difference, relative to the largest number of an array, of a rebuilt model's parameters from the file's
TOLERANCE = 1e-9


def rebuild_model(path: str | Path) -> EnergyModel:
    """The model of a file, in float64, with its weights, scales, E0 and shifts.

    The architecture comes from the metadata and the weights from the TorchScript program; the result is compared with
    the parameters of the native engine.

    Args:
        path: model file.

    Raises:
        ModelFileError: see :func:`tesseral.models.file.read_model`; also a type of model that cannot be rebuilt, and a
            file whose metadata, program and parameters contradict each other.
    """
    file = read_model(path)
    model_type = file.metadata["model_type"]
    if model_type not in MODEL_CLASSES:
        raise ModelFileError(
            f"{path}: a model of type {model_type!r} cannot be trained further; types that can: "
            f"{', '.join(MODEL_CLASSES)}"
        )
    kind = MODEL_CLASSES[model_type]
    try:
        model = kind(**kind.arguments_of_file(file.metadata, file.parameters))
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"{path}: its metadata do not describe a {model_type} model: {error!r}") from error
    program: dict[str, Tensor] = load_torchscript(path).state_dict()
    own = model.state_dict()
    for name, value in own.items():
        if name not in program or program[name].shape != value.shape:
            found = "none" if name not in program else str(list(program[name].shape))
            raise ModelFileError(f"{path}: its program has {found} for {name}, its metadata say {list(value.shape)}")
    copy_into(own, program)
    _check_against_parameters(model, file)
    return model


def _check_against_parameters(model: EnergyModel, file: ModelFile) -> None:
    for name, array in model.native_parameters().items():
        stored = file.parameters.get(name)
        same = stored is not None and stored.shape == array.shape
        if (
            stored is None
            or not same
            or np.abs(stored - array).max(initial=0.0) > TOLERANCE * np.abs(array).max(initial=0.0)
        ):
            raise ModelFileError(f"{file.path}: its program and its parameters are not of one model: {name} differs")
