"""What the equivariant linear maps and the spherical harmonics of a MACE model are, found by probing them.

Nothing is assumed about e3nn's normalisation or the order and axes of its components: maps are read off from what
they do to unit vectors, and a random vector then proves the result. A feature of degree l in MACE's components is
O_l times the feature in ours, with an orthogonal O_l; linear maps of the channels are the same in both.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tesseral.kernel.reference import spherical_harmonics
from tesseral.models.mace_import.source import MaceImportError

Array = NDArray[np.float64]

HARMONICS_NORM = math.sqrt(4.0 * math.pi)  # MACE's harmonics have norm sqrt(2 l + 1), ours are orthonormal
TOLERANCE = 1e-10  # relative, of what must hold exactly


@dataclass(frozen=True)
class Block:
    """Features of one degree among the components of an e3nn tensor: component m of channel k at
    start + k (2 degree + 1) + m."""

    degree: int
    channels: int
    start: int

    @property
    def width(self) -> int:
        """Number of components of a channel."""
        return 2 * self.degree + 1

    @property
    def stop(self) -> int:
        """Behind the last component."""
        return self.start + self.channels * self.width


def blocks_of(irreps: Any, what: str) -> list[Block]:
    """Blocks of e3nn irreps.

    Raises MaceImportError, with `what`, for features whose parity is not (-1)^l.
    """
    blocks, start = [], 0
    for channels, irrep in irreps:
        if irrep.p != (-1) ** irrep.l:
            raise MaceImportError(f"{what}: features {irreps} have a parity other than (-1)^l and cannot be imported")
        blocks.append(Block(irrep.l, channels, start))
        start = blocks[-1].stop
    return blocks


def array(tensor: Tensor) -> Array:
    """A copy in float64."""
    return tensor.detach().cpu().to(torch.float64).numpy().copy()


def block_matrices(
    function: Callable[[Tensor], Tensor], inputs: list[Block], outputs: list[Block], what: str
) -> dict[tuple[int, int], Array]:
    """Matrices [channels in, channels out] of a linear equivariant map, for each pair of blocks of the same degree.

    function: [B, components in] -> [B, components out].
    Raises MaceImportError, with `what`, if `function` is not such a map.
    """
    matrices: dict[tuple[int, int], Array] = {}
    for position, block in enumerate(inputs):
        rows = torch.zeros(block.channels, inputs[-1].stop)
        rows[torch.arange(block.channels), torch.arange(block.start, block.stop, block.width)] = 1.0
        images = array(function(rows))
        for target, output in enumerate(outputs):
            if output.degree == block.degree:
                matrices[position, target] = images[:, output.start : output.stop : output.width]
    vector = torch.randn(1, inputs[-1].stop, generator=torch.Generator().manual_seed(0))
    expected = np.zeros(outputs[-1].stop)
    for (position, target), matrix in matrices.items():
        block, output = inputs[position], outputs[target]
        values = array(vector[0, block.start : block.stop]).reshape(block.channels, block.width)
        expected[output.start : output.stop] += (matrix.T @ values).reshape(-1)
    image = array(function(vector))[0]
    if not np.abs(image - expected).max() <= TOLERANCE * max(np.abs(image).max(), 1.0):
        raise MaceImportError(f"{what} is no linear equivariant map and cannot be imported")
    return matrices


def matrices_by_degree(
    function: Callable[[Tensor], Tensor], inputs: list[Block], outputs: list[Block], shape: tuple[int, int], what: str
) -> Array:
    """Matrices [l_top+1, K, K] of a map between features with one block per degree at most; shape: (l_top, K).

    Missing degrees and channels are zero; degrees above l_top are left out.
    Raises MaceImportError as `block_matrices`, and for more than K channels or several blocks of a degree.
    """
    l_top, channels = shape
    result = np.zeros((l_top + 1, channels, channels))
    for blocks in (inputs, outputs):
        degrees = [block.degree for block in blocks]
        if len(set(degrees)) != len(degrees) or any(block.channels > channels for block in blocks):
            sizes = ", ".join(f"{block.channels} of degree {block.degree}" for block in blocks)
            raise MaceImportError(f"{what}: {sizes}: unequal numbers of channels cannot be imported")
    for (position, _), matrix in block_matrices(function, inputs, outputs, what).items():
        degree = inputs[position].degree
        if degree <= l_top:
            result[degree, : matrix.shape[0], : matrix.shape[1]] = matrix
    return result


def harmonic_frames(harmonics: Any, what: str) -> list[Array]:
    """The orthogonal matrices O_l of each degree: Y_MACE,l = sqrt(4 pi) O_l Y_l.

    harmonics: module, vectors [E, 3] -> [E, (l_max+1)^2].  Raises MaceImportError, with `what`, if there are none.
    """
    vectors = torch.randn(400, 3, generator=torch.Generator().manual_seed(1))
    l_max = math.isqrt(harmonics(vectors).shape[1]) - 1
    theirs, ours = array(harmonics(vectors)), array(spherical_harmonics(vectors, l_max))
    frames = []
    for degree in range(l_max + 1):
        part = slice(degree**2, (degree + 1) ** 2)
        solution = np.linalg.lstsq(ours[:, part], theirs[:, part] / HARMONICS_NORM, rcond=None)[0]
        frame = np.asarray(solution.T, dtype=np.float64)
        exact = np.abs(HARMONICS_NORM * ours[:, part] @ frame.T - theirs[:, part]).max()
        if exact > TOLERANCE or np.abs(frame @ frame.T - np.eye(len(frame))).max() > TOLERANCE:
            raise MaceImportError(f"{what}: its spherical harmonics of degree {degree} are not the real harmonics")
        frames.append(frame)
    return frames
