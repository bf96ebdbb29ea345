"""Fixed numbers that survive a conversion of their module to float32 and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

if TYPE_CHECKING:
    from typing_extensions import Self


class ExactBuffers(torch.nn.Module):
    """Base class: converted to float32 and back to float64, some buffers have their first values again, not rounded.

    Training in float32 exports in float64; constants that were never trained, such as tables of radial functions whose
    pieces must meet, should not lose digits on the way.

    `exact_buffers` names them in a subclass.
    """

    if TYPE_CHECKING:  # TorchScript does not take annotations in the class body
        exact_buffers: tuple[str, ...]

    def _apply(self, function: Any, recurse: bool = True) -> Self:
        """Convert dtype or device."""
        before = {name: getattr(self, name) for name in self.exact_buffers}
        super()._apply(function, recurse)
        exact: dict[str, NDArray[np.float64]] = self.__dict__.setdefault("_exact_values", {})
        for name, old in before.items():
            new = getattr(self, name)
            if old.dtype == torch.float64 and new.dtype != torch.float64:
                exact[name] = old.cpu().numpy()
            elif name in exact and old.dtype != torch.float64 and new.dtype == torch.float64:
                restored = torch.tensor(exact[name], device=new.device)
                if torch.equal(restored.to(old.dtype), old.to(new.device)):  # nothing else was loaded since
                    setattr(self, name, restored)
        return self
