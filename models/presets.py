"""Named tables of defaults for the sections ``model`` and ``training`` of a training configuration."""

from __future__ import annotations

import copy
import difflib
from typing import Any

#: Every preset says all of layers, channels, l_max and nu, so that it means the same when the defaults change.
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "local-small": {"model": {"layers": 1, "channels": 32, "l_max": 2, "nu": 3}},
    "local-medium": {"model": {"layers": 1, "channels": 64, "l_max": 3, "nu": 3}},
    "local-large": {"model": {"layers": 1, "channels": 128, "l_max": 3, "nu": 3}},
    "layered-small": {"model": {"layers": 2, "channels": 64, "l_max": 3, "nu": 3, "message_l": 0}},
    "layered-medium": {"model": {"layers": 2, "channels": 128, "l_max": 3, "nu": 3, "message_l": 0}},
    "layered-large": {"model": {"layers": 2, "channels": 128, "l_max": 3, "nu": 3, "message_l": 1}},
}


def preset_sections(name: Any) -> dict[str, dict[str, Any]]:
    """A copy of the sections of a preset.

    Raises:
        ValueError: there is no such preset; names the nearest one.
    """
    if isinstance(name, str) and name in PRESETS:
        return copy.deepcopy(PRESETS[name])
    near = difflib.get_close_matches(str(name), PRESETS, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"no preset {name!r}; {hint}presets: {', '.join(PRESETS)}")
