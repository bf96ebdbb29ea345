"""Reading a training configuration: strict YAML, ``--set`` overrides, and errors that name the key."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from tesseral.models.config import Config, is_number
from tesseral.models.presets import preset_sections


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the file and the key."""


class _StrictLoader(yaml.SafeLoader):
    """YAML without silently overwritten keys."""


def _mapping_without_duplicates(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    for index, key in enumerate(keys):
        if key in keys[:index]:
            line = node.value[index][0].start_mark.line + 1
            raise ConfigError(f"line {line}: the key {key!r} is given twice")
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_duplicates)


def load_config(path: str | Path, overrides: list[str] | None = None, data_root: str | Path | None = None) -> Config:
    """Read and check a training configuration.

    Args:
        path: YAML file.
        overrides: ``section.key=value`` assignments that replace keys of the file; values are YAML. Relative
            paths given here start at the current directory.
        data_root: folder at which relative data paths of the file start; default: the folder of the file.

    Returns:
        The configuration; all data paths are absolute, and ``init_from`` is absolute or the name of a shipped model.

    Raises:
        ConfigError: the file cannot be read or parsed, or a key is unknown, missing or out of range.
    """
    path = Path(path)
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected the keys name, data, model, training; the file holds none")
    _make_paths_absolute(content, Path(data_root) if data_root is not None else path.parent)
    _make_start_absolute(content, path.parent)
    changes: dict[str, Any] = {}
    for assignment in overrides or []:
        _assign(changes, assignment)
    _make_paths_absolute(changes, Path.cwd())
    _make_start_absolute(changes, Path.cwd())
    _merge(content, changes)
    return parse_config(content, str(path))


def read_yaml(path: Path) -> Any:
    """The content of a YAML file in which no key is given twice.

    Raises:
        ConfigError: the file cannot be read or parsed.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the configuration: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a text file in UTF-8: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def parse_config(content: dict[str, Any], source: str = "configuration") -> Config:
    """Check a configuration given as nested dictionaries; ``source`` opens the messages of ConfigError.

    The key ``preset`` is replaced by what it stands for (:mod:`tesseral.models.presets`); other keys win over it.
    """
    preset = content.get("preset")
    content = {key: value for key, value in content.items() if key != "preset"}
    if preset is not None and content.get("init_from") is not None:
        raise ConfigError(f"{source}: preset: cannot be used with init_from: the model is that of the file")
    if preset is not None:
        try:
            defaults = preset_sections(preset)
        except ValueError as error:
            raise ConfigError(f"{source}: preset: {error}") from None
        _merge(defaults, content)
        content, source = defaults, f"{source} with preset {preset}"
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        lines = list(dict.fromkeys(_explain(details, content) for details in error.errors()))
        raise ConfigError("\n".join(f"{source}: {line}" for line in lines)) from None


def dump_config(config: Config) -> str:
    """The configuration as YAML text that :func:`load_config` reads back, without presets: every key has its value."""
    return yaml.safe_dump(json.loads(config.model_dump_json()), sort_keys=False, allow_unicode=True)


def _make_paths_absolute(content: dict[str, Any], root: Path) -> None:
    data = content.get("data")
    if not isinstance(data, dict):
        return
    for key in ("train", "validation", "test", "replay"):
        value = data.get(key)
        if isinstance(value, str) and not (key == "validation" and is_number(value)):
            data[key] = [str(root.absolute() / value)]
        elif isinstance(value, list):
            data[key] = [str(root.absolute() / v) if isinstance(v, str) else v for v in value]


def _make_start_absolute(content: dict[str, Any], root: Path) -> None:
    """A bare word that is no file in the folder is left: it is the name of a shipped model."""
    value = content.get("init_from")
    if (
        isinstance(value, str)
        and value
        and (len(Path(value).parts) > 1 or Path(value).suffix or (root / value).is_file())
    ):
        content["init_from"] = str(root.absolute() / value)


def _assign(content: dict[str, Any], assignment: str) -> None:
    key, separator, text = assignment.partition("=")
    names = key.strip().split(".")
    if not separator or not all(names):
        raise ConfigError(f"--set {assignment}: expected section.key=value, for instance training.epochs=100")
    try:
        value = yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {assignment}: the value is not valid YAML: {error}") from error
    nested: Any = value
    for name in reversed(names):
        nested = {name: nested}
    _merge(content, nested)


def _merge(content: dict[str, Any], changes: dict[str, Any]) -> None:
    for name, value in changes.items():
        if isinstance(value, dict) and isinstance(content.get(name), dict):
            _merge(content[name], value)
        else:
            content[name] = value


def _section_at(location: tuple[Any, ...]) -> type[BaseModel]:
    """The section that contains the key at ``location`` (names of union members are skipped)."""
    section: type[BaseModel] = Config
    for name in location[:-1]:
        field = section.model_fields.get(str(name))
        if field is None:
            continue
        candidates = (field.annotation, *get_args(field.annotation))
        section = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), section)
    return section


def _explain(details: Any, content: dict[str, Any]) -> str:
    """One line for one pydantic error: the key, what is wrong, and the nearest known key if it is unknown."""
    location = tuple(part for part in details["loc"])
    section = _section_at(location)
    names = _path_of_names(location, content)
    key = ".".join(names) or "configuration"
    if details["type"] == "extra_forbidden":
        known = [*section.model_fields, *(["preset"] if section is Config else [])]
        near = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        return f"{key}: unknown key; {hint}known keys here: {', '.join(known)}"
    if details["type"] == "missing":
        return f"{key}: missing"
    message = details["msg"].removeprefix("Value error, ")
    value = details["input"]
    if details["type"] == "value_error" or isinstance(value, dict):
        return f"{key}: {message}"
    return f"{key}: {message[0].lower()}{message[1:]}, got {value!r}"


def _path_of_names(location: tuple[Any, ...], content: dict[str, Any]) -> list[str]:
    """The part of pydantic's location that the user wrote: names of union members are left out."""
    names: list[str] = []
    here: Any = content
    for index, part in enumerate(location):
        inside = (isinstance(here, dict) and part in here) or (isinstance(here, list) and isinstance(part, int))
        is_key = index == len(location) - 1 and isinstance(here, dict) and index < 3
        if not inside and not (is_key and part in _section_at(location).model_fields):
            continue
        names.append(str(part))
        here = here[part] if inside else None
    return names
