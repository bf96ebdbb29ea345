"""Every key of the YAML file of ``tesseral train``: its meaning, default and range.

The file may have one more, ``preset``, which stands for some of the others; see :mod:`tesseral.models.presets`.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from ase.data import atomic_numbers
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

LabelKey = str | Literal[False] | None


def is_number(text: str) -> bool:
    """Whether the text reads as a number (a validation fraction given on the command line)."""
    try:
        float(text)
    except ValueError:
        return False
    return True


class Section(BaseModel):
    """Base of all sections: unknown keys are refused and values are not changed later."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_and_false_are_no_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and not str(info.field_name).endswith(("_key", "_mixing")):
            raise ValueError(f"expected a value other than yes, no, true or false, got {str(value).lower()}")
        return value


class DataConfig(Section):
    """Which frames are read, and under which names their labels stand."""

    train: list[str] = Field(description="extended XYZ file or files (also .xz, .gz) to train on")
    validation: float | list[str] = Field(
        default=0.1, description="fraction of the training frames, or files, that choose the exported weights"
    )
    test: list[str] = Field(default=[], description="files evaluated in the report; never seen in training")
    replay: list[str] = Field(default=[], description="old data that a model from init_from is to keep its accuracy on")
    replay_weight: float = Field(default=1.0, gt=0, description="weight of replay frames in the loss, of others 1")
    energy_key: LabelKey = Field(default=None, description="info key; null: REF_energy, then energy; false: not read")
    forces_key: LabelKey = Field(default=None, description="array key; null: REF_forces, then forces; false: not read")
    stress_key: LabelKey = Field(default=None, description="info key; null: REF_stress, then stress; false: not read")
    stress_offset: float = Field(
        default=0.0, description="isotropic stress in eV/Å^3 subtracted from every stress label (Pulay stress)"
    )

    @field_validator("train", "test", "replay", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("validation", mode="before")
    @classmethod
    def _fraction_or_files(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) and not is_number(value) else value

    @field_validator("train")
    @classmethod
    def _not_empty(cls, value: list[str]) -> list[str]:
        if not value:
            raise ValueError("name at least one file to train on")
        return value

    @field_validator("validation")
    @classmethod
    def _fraction_range(cls, value: float | list[str]) -> float | list[str]:
        if isinstance(value, float) and not 0 <= value < 1:
            raise ValueError(f"a fraction of the training frames must be in [0, 1), got {value:g}")
        return value

    @field_validator("energy_key", "forces_key", "stress_key", mode="before")
    @classmethod
    def _key_is_a_name(cls, value: Any) -> Any:
        if value is not None and value is not False and not isinstance(value, str):
            raise ValueError(f"expected the name of a key, null (choose) or false (not read), got {value!r}")
        return value


class RepulsionConfig(Section):
    """Ziegler-Biersack-Littmark core repulsion, switched off between ``inner`` and ``outer`` (Å)."""

    inner: float = Field(gt=0)
    outer: float = Field(gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> RepulsionConfig:
        if self.outer <= self.inner:
            raise ValueError(f"outer ({self.outer:g} Å) must be larger than inner ({self.inner:g} Å)")
        return self


class ModelConfig(Section):
    """Architecture; :class:`tesseral.models.local.LocalModel` and, for more layers than one,
    :class:`tesseral.models.layered.LayeredModel` explain each number."""

    cutoff: float = Field(default=5.0, description="neighbours closer than this (Å) are seen")
    l_max: int = Field(default=3, ge=0, le=8, description="highest degree of the spherical harmonics")
    n_radial: int = Field(default=8, ge=1, le=64, description="radial functions per neighbour species")
    channels: int = Field(default=64, ge=1, description="channels after the mixing of species and radial functions")
    nu: int = Field(default=3, ge=1, le=4, description="highest correlation order; body order nu + 1")
    layers: int = Field(default=1, ge=1, le=3, description="1: strictly local; more: atoms pass features on")
    message_l: int = Field(default=0, ge=0, le=2, description="highest degree of the features that are passed on")
    message_mixing: bool = Field(default=False, description="mix the channels of messages before their product")
    radial_basis: Literal["bessel", "chebyshev", "gaussian"] = "gaussian"
    features: int = Field(default=32, ge=1, description="features per atom that the readout sees")
    readout: list[int] = Field(default=[32], description="hidden widths of the nonlinear readout; [] for linear only")
    e0: Literal["least_squares", "isolated_atoms", "init_from"] | dict[str, float] = Field(
        default="least_squares", description="energies of the free atoms in eV, or where they come from"
    )
    scale: Literal["auto"] | float = Field(
        default="auto", description="energy scale of the readout in eV; auto: root mean square force x 1 Å"
    )
    zbl: RepulsionConfig | None = None

    @field_validator("cutoff")
    @classmethod
    def _cutoff_positive(cls, value: float) -> float:
        if value <= 0:
            raise ValueError(f"must be larger than 0 Å, got {value:g}")
        return value

    @field_validator("readout")
    @classmethod
    def _widths_positive(cls, value: list[int]) -> list[int]:
        if any(width < 1 for width in value):
            raise ValueError(f"hidden widths must be at least 1, got {value}")
        return value

    @field_validator("e0")
    @classmethod
    def _elements_exist(cls, value: Any) -> Any:
        unknown = [name for name in value if atomic_numbers.get(name, 0) == 0] if isinstance(value, dict) else []
        if unknown:
            raise ValueError(f"not the symbol of an element: {', '.join(map(repr, unknown))}")
        return value

    @field_validator("scale")
    @classmethod
    def _scale_positive(cls, value: Any) -> Any:
        if value != "auto" and value <= 0:
            raise ValueError(f"must be larger than 0 eV or auto, got {value:g}")
        return value

    @model_validator(mode="after")
    def _repulsion_inside_cutoff(self) -> ModelConfig:
        if self.zbl is not None and self.zbl.outer > self.cutoff:
            raise ValueError(f"zbl.outer ({self.zbl.outer:g} Å) reaches beyond the cutoff ({self.cutoff:g} Å)")
        return self

    @model_validator(mode="after")
    def _messages_fit(self) -> ModelConfig:
        if self.layers == 1 and (self.message_l > 0 or self.message_mixing):
            raise ValueError("message_l and message_mixing belong to models with layers: 2 or 3, got layers: 1")
        if self.message_l > self.l_max:
            raise ValueError(f"message_l ({self.message_l}) must be at most l_max ({self.l_max})")
        return self


class LossWeights(Section):
    """Weights of the mean squared errors per atom (eV^2), force component ((eV/Å)^2), stress ((eV/Å^3)^2)."""

    energy: float = Field(default=30.0, ge=0)
    forces: float = Field(default=10.0, ge=0)
    stress: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _something_to_learn(self) -> LossWeights:
        if self.energy == 0 and self.forces == 0 and self.stress == 0:
            raise ValueError("energy, forces and stress weights are all 0: nothing to learn from")
        return self


class SecondStage(LossWeights):
    """Weights of the last part of the training, usually with much more on the energy."""

    start: float = Field(default=0.75, gt=0, lt=1, description="fraction of the epochs after which they hold")
    energy: float = Field(default=1000.0, ge=0)


class LossConfig(LossWeights):
    """What is minimised; see :mod:`tesseral.models.loss`."""

    kind: Literal["mse", "huber"] = "mse"
    huber_delta: float = Field(
        default=0.01, gt=0, description="error at which Huber turns linear (eV, eV/Å, eV/Å^3 alike)"
    )
    second_stage: SecondStage | None = None


class TrainingConfig(Section):
    """Optimisation: SOAP with warm-up, decay, gradient clipping and averaged weights."""

    seed: int = Field(default=0, ge=0)
    trainable: Literal["all", "last_layer", "readout"] = Field(
        default="all", description="what of a model from init_from is optimised; the rest stays as it is"
    )
    device: str = Field(default="cpu", description="cpu, cuda, or the GPU of a number as cuda:1")
    precision: Literal["float32", "float64"] = "float32"
    batch_size: int = Field(default=8, ge=1, description="structures per step")
    epochs: int = Field(default=500, ge=1)
    learning_rate: float = Field(default=0.03, gt=0)
    final_learning_rate_fraction: float = Field(default=0.01, ge=0, le=1)
    warmup_epochs: float = Field(default=1.0, ge=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    weight_decay: float = Field(default=0.0, ge=0)
    gradient_clip: float | None = Field(default=10.0, gt=0, description="largest norm of the gradient; null: none")
    ema_decay: float = Field(default=0.99, ge=0, lt=1, description="decay of the averaged weights, per step")
    loss: LossConfig = LossConfig()
    validation_interval: int = Field(default=1, ge=1, description="epochs between validations")
    patience: int | None = Field(
        default=None, ge=1, description="validations without improvement before stopping; null: never"
    )
    checkpoint_interval: float = Field(default=60.0, ge=0, description="seconds between checkpoints; 0: every step")
    threads: int | None = Field(default=None, ge=1, description="threads of torch; null: one per core")

    @field_validator("device")
    @classmethod
    def _device_is_known(cls, value: str) -> str:
        if not re.fullmatch(r"cpu|cuda(:\d+)?", value):
            raise ValueError(f"expected cpu, cuda or cuda:1 for the GPU of this number, got {value!r}")
        return value

    @model_validator(mode="after")
    def _warmup_fits(self) -> TrainingConfig:
        if self.warmup_epochs >= self.epochs and self.warmup_epochs > 1:
            raise ValueError(f"warmup_epochs ({self.warmup_epochs:g}) must be less than epochs ({self.epochs})")
        return self


class Config(Section):
    """The whole file, a preset replaced by what it stands for.

    With ``init_from`` the model is that of a file and the section ``model`` has no key but ``e0``; its other fields
    mean nothing then and are not written.
    """

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    description: str = ""
    reference_method: str = ""
    citation: str = ""
    license: str = ""
    init_from: str | None = Field(
        default=None, min_length=1, description="model to start from: file, or name of a shipped model"
    )
    data: DataConfig
    model: ModelConfig = Field(default=ModelConfig(), validate_default=True)
    training: TrainingConfig = TrainingConfig()

    @field_validator("data")
    @classmethod
    def _replay_after_a_start(cls, value: DataConfig, info: ValidationInfo) -> DataConfig:
        if value.replay and info.data.get("init_from") is None:
            raise ValueError("replay needs init_from: only a model that was trained before can forget")
        return value

    @field_validator("model", mode="before")
    @classmethod
    def _architecture_of_the_start(cls, value: Any, info: ValidationInfo) -> Any:
        given = value.model_dump(exclude_unset=True) if isinstance(value, ModelConfig) else value
        if not isinstance(given, dict):
            return value
        if info.data.get("init_from") is None:
            if given.get("e0") == "init_from":
                raise ValueError("e0: init_from needs the key init_from, the model to start from")
            return value
        others = [key for key in given if key in ModelConfig.model_fields and key != "e0"]
        if others:
            raise ValueError(f"with init_from the model is that of the file; remove {', '.join(others)} (e0 may stay)")
        return {"e0": "init_from"} | given

    @field_validator("training")
    @classmethod
    def _frozen_after_a_start(cls, value: TrainingConfig, info: ValidationInfo) -> TrainingConfig:
        if value.trainable != "all" and info.data.get("init_from") is None:
            raise ValueError(f"trainable: {value.trainable} needs init_from: the weights of a new model are random")
        return value

    @model_serializer(mode="wrap")
    def _without_architecture_of_the_start(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = handler(self)
        if self.init_from is not None:
            content["model"] = {"e0": content["model"]["e0"]}
        return content
