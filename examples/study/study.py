"""Error against cost: train variants of one configuration, and measure what each costs in the native engine.

    python study.py acac.yaml --data-root folder/with/the/data

The study file names a training configuration (`base`) and overrides of its keys by variant, as `--set` has them. The
same command continues after an interruption; README.md says more.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ase import Atoms
from study_report import Variant, report, write_json

from tesseral.models.checkpoint import CheckpointError
from tesseral.models.config import Config
from tesseral.models.config_file import ConfigError, load_config, read_yaml
from tesseral.models.frames import DataError, LabelKeys, read_frames
from tesseral.models.pipeline import LOG_NAME, MODEL_NAME, train
from tesseral.models.presets import preset_sections
from tesseral.models.training import TrainingError, TrainingInterrupted


def load_study(path: Path, output: Path, data_root: Path | None = None) -> list[Variant]:
    """Read a study file; every configuration is checked before anything is trained.

    Raises:
        ConfigError: the study or a configuration cannot be used; names the variant.
    """
    content = read_yaml(path)
    if not isinstance(content, dict) or set(content) != {"base", "variants"}:
        raise ConfigError(f"{path}: expected the keys base (a training configuration) and variants")
    if not isinstance(content["variants"], dict) or not content["variants"]:
        raise ConfigError(f"{path}: variants: expected names with overrides, such as nu 2: {{model.nu: 2}}")
    base = path.parent / str(content["base"])
    variants: dict[str, Variant] = {}
    for name, overrides in content["variants"].items():
        try:
            config = load_config(base, assignments(overrides), data_root)
        except ValueError as error:
            raise ConfigError(f"{path}: variant {name!r}: {error}") from error
        same = next((variant for variant in variants.values() if variant.config == config), None)
        if same is not None:
            same.names.append(str(name))
            continue
        folder = re.sub(r"[^A-Za-z0-9.-]+", "-", str(name)).strip("-.") or "variant"
        if folder in variants:
            raise ConfigError(f"{path}: variants {variants[folder].names[0]!r} and {name!r} would share {folder}/")
        variants[folder] = Variant([str(name)], output / folder, config)
    configs = [variant.config for variant in variants.values()]
    if not configs[0].data.test or any(config.data.test != configs[0].data.test for config in configs):
        raise ConfigError(f"{path}: data.test must name the same file for all variants; errors are those of its frames")
    return list(variants.values())


def assignments(overrides: Any) -> list[str]:
    """Overrides of a variant as `--set` takes them. Its preset comes first and wins over the keys of the base."""
    if overrides is not None and not isinstance(overrides, dict):
        raise ConfigError(f"expected overrides such as {{model.nu: 2}}, got {overrides!r}")
    changes = dict(overrides or {})
    preset = preset_sections(changes.pop("preset")) if "preset" in changes else {}
    return [f"{key}={json.dumps(value)}" for key, value in {**preset, **changes}.items()]


def read_test_frames(config: Config) -> list[Atoms]:
    """The structures of the first test file.

    Raises:
        DataError: they cannot be read, or have no forces.
    """
    data = config.data
    keys = LabelKeys(data.energy_key, data.forces_key, data.stress_key, data.stress_offset)
    frames, _ = read_frames(data.test[:1], keys)
    if all(frame.forces is None for frame in frames):
        raise DataError(f"{data.test[0]}: has no forces, and the study compares errors of forces")
    return [frame.atoms for frame in frames]


def read_result(variant: Variant) -> None:
    """Take the result of a training that is finished, if this configuration made it."""
    path = variant.folder / "result.json"
    if path.exists() and (variant.folder / MODEL_NAME).exists():
        result = json.loads(path.read_text(encoding="utf-8"))
        if result["config"] == variant.config.model_dump(mode="json"):
            variant.result = result


def train_variant(variant: Variant) -> None:
    """Train, or continue, and record the errors of the first test file."""
    tables = train(variant.config, variant.folder, resume=True)
    table = next(table for name, table in tables.items() if name.startswith("test"))
    last_epoch = (variant.folder / LOG_NAME).read_text(encoding="utf-8").splitlines()[-1]
    variant.result = {
        "energy_per_atom": table["energy_per_atom"],
        "forces": table["forces"],
        "training_seconds": json.loads(last_epoch)["seconds"],
        "config": variant.config.model_dump(mode="json"),
    }
    write_json(variant.folder / "result.json", variant.result)


def train_all(variants: Sequence[Variant]) -> bool:
    """Train what is not trained, with a line for each; whether all succeeded."""
    for index, variant in enumerate(variants):
        print(f"[{index + 1}/{len(variants)}] {variant.label}:", end=" ", flush=True)
        if variant.result:
            print("already trained")
            continue
        try:
            train_variant(variant)
        except (TrainingError, CheckpointError) as error:
            print(f"failed: {error}", flush=True)
            continue
        minutes = variant.result["training_seconds"] / 60
        print(f"F RMSE {variant.result['forces']['rmse']:.1f} meV/Å after {minutes:.1f} min", flush=True)
    return all(variant.result for variant in variants)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 if all variants are trained and reported."""
    parser = argparse.ArgumentParser(description="Train variants of one configuration and show error against cost.")
    parser.add_argument("study", type=Path, help="YAML file: base and variants")
    parser.add_argument("--output", type=Path, help="folder for the results (default: ./study-<name of the file>)")
    parser.add_argument("--data-root", type=Path, help="where relative data paths start (default: folder of the base)")
    parser.add_argument("--report", action="store_true", help="train nothing: report what is trained so far")
    options = parser.parse_args(arguments)
    output = options.output or Path(f"study-{options.study.stem}")
    try:
        variants = load_study(options.study, output, options.data_root)
        images = read_test_frames(variants[0].config)
        for variant in variants:
            read_result(variant)
        complete = options.report or train_all(variants)
        trained = [variant for variant in variants if variant.result]
        if trained:
            report(trained, images, output)
        else:
            print("study: nothing is trained yet", file=sys.stderr)
        return 0 if complete and trained else 1
    except (TrainingInterrupted, KeyboardInterrupt) as interruption:
        print(f"\nstudy: {str(interruption) or 'interrupted'}; the same command continues", file=sys.stderr)
        return 130
    except (ConfigError, DataError, OSError) as error:
        print(f"study: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
