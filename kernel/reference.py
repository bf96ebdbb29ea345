"""Plain-PyTorch twins of the compiled operators `torch.ops.tesseral.*`.

Every function has the name, the arguments and the result of its compiled operator and is written for
reading, not for speed. It is the oracle of the tests and the fallback on devices without a compiled kernel.
All functions are differentiable any number of times by ordinary autograd, take float32 or float64, and accept
zero atoms and zero edges. Units: eV, Å.

Conventions: an edge is (center i, neighbor j) with the vector r_ij = r_j - r_i + S @ cell;
LM = (l_max + 1)^2; harmonics are real and orthonormal, component (l, m) at index l*l + l + m, without the
Condon-Shortley phase.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

RADIAL_BASES = ("bessel", "chebyshev", "gaussian", "spline")
MAXIMUM_DEGREE = 7  # of the polynomials of basis "spline"

COULOMB_CONSTANT = 14.399645  # e^2 / (4 pi epsilon_0), eV Å
ZBL_LENGTH = 0.46850  # Å; Ziegler, Biersack, Littmark (1985)
ZBL_EXPONENT = 0.23
ZBL_TERMS = ((0.18175, 3.19980), (0.50986, 0.94229), (0.28022, 0.40290), (0.02817, 0.20162))


def spherical_harmonics(vectors: Tensor, l_max: int) -> Tensor:
    """Real orthonormal spherical harmonics of the directions of `vectors`.

    Y_lm = P_l^|m|(z) Re (x + iy)^m for m >= 0 and P_l^|m|(z) Im (x + iy)^|m| for m < 0, times sqrt(2) unless
    m = 0, with the normalised associated Legendre functions divided by sin^|m|, by their recursion in l.

    vectors: [E, 3], any unit, non-zero length.  Returns [E, (l_max + 1)^2].
    """
    x, y, z = (vectors / vectors.norm(dim=1, keepdim=True)).unbind(1)
    components: list[Tensor] = [z] * (l_max + 1) ** 2
    cosine, sine = torch.ones_like(z), torch.zeros_like(z)  # Re, Im of (x + iy)^m
    diagonal = math.sqrt(1.0 / (4.0 * math.pi))
    for m in range(l_max + 1):
        if m > 0:
            cosine, sine = x * cosine - y * sine, x * sine + y * cosine
            diagonal *= math.sqrt((2 * m + 1) / (2 * m))
        lower, legendre = torch.zeros_like(z), torch.full_like(z, diagonal)
        for degree in range(m, l_max + 1):
            if degree > m:
                previous = degree - 1
                factor = math.sqrt((4 * degree**2 - 1) / (degree**2 - m**2))
                ratio = math.sqrt((previous**2 - m**2) / (4 * previous**2 - 1)) if previous else 0.0
                lower, legendre = legendre, factor * (z * legendre - ratio * lower)
            middle = degree * degree + degree
            if m == 0:
                components[middle] = legendre
            else:
                components[middle + m] = math.sqrt(2.0) * legendre * cosine
                components[middle - m] = math.sqrt(2.0) * legendre * sine
    return torch.stack(components, dim=1)


def spherical_harmonics_gradient(gradient: Tensor, vectors: Tensor, l_max: int) -> Tensor:
    """Vector-Jacobian product [E, 3] of `spherical_harmonics` with `gradient` [E, (l_max+1)^2].

    Differentiable in `gradient` (linearly) and in `vectors`.
    """
    return _vector_jacobian_product(lambda moved: spherical_harmonics(moved, l_max), vectors, gradient)


def _vector_jacobian_product(function: Callable[[Tensor], Tensor], inputs: Tensor, gradient: Tensor) -> Tensor:
    """Derivative of <gradient, function(inputs)> by the inputs, with a graph where one is being recorded."""
    differentiable = torch.is_grad_enabled() and (gradient.requires_grad or inputs.requires_grad)
    with torch.enable_grad():
        leaf = inputs if inputs.requires_grad else inputs.detach().requires_grad_()
        (result,) = torch.autograd.grad(function(leaf), leaf, gradient, create_graph=differentiable)
    return result if differentiable else result.detach()


def envelope(x: Tensor) -> Tensor:
    """Polynomial cutoff 1 - 28 x^6 + 48 x^7 - 21 x^8 of x = r / cutoff; it, f' and f'' vanish at 1; 0 beyond.

    Gasteiger, Groß, Günnemann, arXiv:2003.03123, equation 8 with p = 6.
    """
    return torch.where(x < 1.0, 1.0 - 28.0 * x**6 + 48.0 * x**7 - 21.0 * x**8, torch.zeros_like(x))


def radial_basis(
    distances: Tensor, basis: str, n_radial: int, cutoff: float, table: Tensor, tables: Tensor | None = None
) -> Tensor:
    """Radial functions that vanish smoothly at the cutoff.

    With x = r/cutoff. "bessel": sqrt(2/cutoff) sin(n pi x)/r, n = 1.. (arXiv:2003.03123); "chebyshev":
    T_q(1 - 2 (1-x)^2); "gaussian": n_radial evenly spaced Gaussians of width cutoff/n_radial; all times
    `envelope`. "spline": piecewise polynomials of degree 1..7 from `table`.

    distances: [E] Å, positive.  table: [n_intervals, n_radial, degree+1] or [n_tables, n_intervals, n_radial, degree+1]
    for "spline", otherwise empty.  tables: [E] int64, the table of each edge, where there are several.
    Returns [E, n_radial].  Raises ValueError for an unknown basis or a table of the wrong shape.
    """
    x = distances / cutoff
    if basis == "spline":
        return _piecewise_polynomials(x, n_radial, table, tables)
    inside = x.clamp(max=1.0)  # keeps the high powers finite far outside
    if basis == "bessel":
        orders = torch.arange(1, n_radial + 1, dtype=x.dtype, device=x.device)
        values = math.sqrt(2.0 / cutoff) * torch.sin(math.pi * orders * x[:, None]) / distances[:, None]
    elif basis == "chebyshev":
        values = _chebyshev(1.0 - 2.0 * (1.0 - inside) ** 2, n_radial)
    elif basis == "gaussian":
        centres = (torch.arange(n_radial, dtype=x.dtype, device=x.device) + 0.5) / n_radial
        values = torch.exp(-0.5 * ((inside[:, None] - centres) * n_radial) ** 2)
    else:
        raise ValueError(f"radial_basis: unknown basis {basis!r}; known: {', '.join(RADIAL_BASES)}")
    return values * envelope(x)[:, None]


def radial_basis_gradient(
    gradient: Tensor,
    distances: Tensor,
    basis: str,
    n_radial: int,
    cutoff: float,
    table: Tensor,
    tables: Tensor | None = None,
) -> Tensor:
    """Vector-Jacobian product [E] of `radial_basis` with `gradient` [E, n_radial].

    Differentiable in `gradient` (linearly) and in `distances`.
    """
    return _vector_jacobian_product(
        lambda moved: radial_basis(moved, basis, n_radial, cutoff, table, tables), distances, gradient
    )


def _chebyshev(y: Tensor, n_radial: int) -> Tensor:
    """Chebyshev polynomials of the first kind T_0..T_{n_radial-1}: [E] -> [E, n_radial]."""
    polynomials = [torch.ones_like(y), y]
    while len(polynomials) < n_radial:
        polynomials.append(2.0 * y * polynomials[-1] - polynomials[-2])
    return torch.stack(polynomials[:n_radial], dim=1)


def _piecewise_polynomials(x: Tensor, n_radial: int, table: Tensor, tables: Tensor | None) -> Tensor:
    """Polynomials c0 + c1 t + .. + cd t^d on equal intervals of 0 <= x < 1, 0 <= t < 1 in each; zero beyond."""
    pieces = table.unsqueeze(0) if table.dim() == 3 else table
    fits = pieces.dim() == 4 and pieces.shape[2] == n_radial and 2 <= pieces.shape[3] <= MAXIMUM_DEGREE + 1
    if not fits or 0 in pieces.shape:
        raise ValueError(
            f"radial_basis: basis 'spline' needs a table [n_intervals, {n_radial}, degree+1], or several as [n_tables, "
            f"n_intervals, {n_radial}, degree+1], with a degree of 1..{MAXIMUM_DEGREE}, got {list(table.shape)}"
        )
    if tables is None and len(pieces) > 1:
        raise ValueError(f"radial_basis: {len(pieces)} tables need `tables`, the table of each edge")
    n_intervals = pieces.shape[1]
    scaled = x * n_intervals
    interval = scaled.detach().floor().clamp(0, n_intervals - 1)
    fraction = (scaled - interval)[:, None]
    which = torch.zeros_like(interval, dtype=torch.int64) if tables is None else tables
    coefficients = pieces[which, interval.long()].unbind(2)
    values = coefficients[-1]
    for coefficient in coefficients[-2::-1]:
        values = coefficient + fraction * values
    return torch.where(x[:, None] < 1.0, values, torch.zeros_like(values))


def density(
    vectors: Tensor,
    centers: Tensor,
    neighbor_species: Tensor,
    n_atoms: int,
    n_species: int,
    l_max: int,
    basis: str,
    n_radial: int,
    cutoff: float,
    table: Tensor,
    tables: Tensor | None = None,
) -> Tensor:
    """Neighbour density of each atom in radial functions and harmonics, one set per neighbour species.

    D[i, a*n_radial + q, lm] = sum over neighbors j of species a of R_q(r_ij) Y_lm(r_ij/|r_ij|)
    (Drautz, 10.1103/PhysRevB.99.014104, equation 8).

    vectors: [E, 3] Å; centers, neighbor_species: [E] int64; table and tables as in `radial_basis`.
    Returns [n_atoms, n_species*n_radial, (l_max+1)^2].
    """
    radial = radial_basis(vectors.norm(dim=1), basis, n_radial, cutoff, table, tables)
    harmonics = spherical_harmonics(vectors, l_max)
    products = radial[:, :, None] * harmonics[:, None, :]  # [E, n_radial, LM]
    result = products.new_zeros((n_atoms * n_species, n_radial, products.shape[2]))
    result = result.index_add(0, centers * n_species + neighbor_species, products)
    return result.reshape(n_atoms, n_species * n_radial, products.shape[2])


def density_gradient(
    gradient: Tensor,
    vectors: Tensor,
    centers: Tensor,
    neighbor_species: Tensor,
    n_species: int,
    l_max: int,
    basis: str,
    n_radial: int,
    cutoff: float,
    table: Tensor,
    tables: Tensor | None = None,
) -> Tensor:
    """Vector-Jacobian product of `density` with respect to the edge vectors.

    gradient: [N, n_species*n_radial, (l_max+1)^2], the derivative of a scalar by the density; the rest as in
    `density`.  Returns [E, 3], differentiable in `gradient` (linearly) and in `vectors`.
    """
    sizes = (gradient.shape[0], n_species, l_max, basis, n_radial, cutoff, table, tables)
    return _vector_jacobian_product(lambda moved: density(moved, centers, neighbor_species, *sizes), vectors, gradient)


def mix(features: Tensor, weights: Tensor, species: Tensor) -> Tensor:
    """Linear map of the density channels, one matrix per center species and degree l.

    A[i, lm, k] = sum_c features[i, c, lm] weights[species_i, l(lm), c, k]

    features: [N, C, (l_max+1)^2]; weights: [S, l_max+1, C, K]; species: [N] int64.
    Returns [N, (l_max+1)^2, K].
    """
    degrees = torch.arange(weights.shape[1], device=weights.device)
    degree_of_component = torch.repeat_interleave(degrees, 2 * degrees + 1)  # [LM]
    result = features.new_zeros((features.shape[0], features.shape[2], weights.shape[3]))
    for kind in range(weights.shape[0]):
        atoms = (species == kind).nonzero().flatten()
        mixed = torch.einsum("icm,mck->imk", features[atoms], weights[kind, degree_of_component])
        result = result.index_add(0, atoms, mixed)
    return result


def map_rows(values: Tensor, weights: Tensor, degrees: list[int], species: Tensor | None = None) -> Tensor:
    """Linear maps of the channels, one matrix per species and block of rows; blocks of one degree are summed.

    out[i, lm, k'] = sum over the blocks b with degrees[b] = l, sum_k values[i, (b, m), k] weights[species_i, b, k, k']

    values: [N, sum_b (2 degrees[b] + 1), K]; weights: [S, B, K, K']; species: [N] int64, or None with S = 1.
    Returns [N, (L+1)^2, K'], L = max(degrees); each degree up to L must occur.
    """
    blocks = values.split([2 * degree + 1 for degree in degrees], dim=1)
    of_atoms = weights.expand(len(values), -1, -1, -1) if species is None else weights[species]  # [N, B, K, K']
    mapped = [block @ of_atoms[:, b] for b, block in enumerate(blocks)]
    parts = [
        torch.stack([part for part, of_part in zip(mapped, degrees, strict=True) if of_part == degree]).sum(0)
        for degree in range(max(degrees) + 1)
    ]
    return torch.cat(parts, dim=1)


def message(
    radial: Tensor,
    angular: Tensor,
    h: Tensor,
    weights: Tensor,
    centers: Tensor,
    neighbors: Tensor,
    n_atoms: int,
    terms: Tensor,
    couplings: Tensor,
    n_outputs: int | None = None,
) -> Tensor:
    """Messages to each atom from the features h of its neighbors, in harmonics coupled to the components of h.

    M[i, o, k] = sum over edges e of i and terms t = (p, o, y, x) of
        couplings[t] (sum_q radial[e, q] weights[p, q, k]) angular[e, y] h[neighbor of e, x, k]

    radial: [E, Q] radial functions of the distances; angular: [E, LM] harmonics of the directions; h: [N, HM, K] with
    N >= n_atoms (ghosts last); weights: [P, Q, K]; centers (sorted), neighbors: [E] int64; terms: [n_terms, 4] int32 of
    path, output component, harmonic and component of h, sorted by path, component of h and output component;
    couplings: [n_terms]; n_outputs: length of the axis o, by default LM, o being the component lm of the message.
    Multilinear in radial, angular, h and weights.  Returns [n_atoms, n_outputs, K].
    """
    path, out, harmonic, component = terms.to(h.device).long().unbind(1)
    channels = torch.einsum("eq,pqk->epk", radial, weights)  # [E, P, K]
    numbers = couplings.to(angular) * angular[:, harmonic]  # [E, n_terms]
    products = numbers[:, :, None] * channels[:, path] * h[neighbors][:, component]  # [E, n_terms, K]
    n_rows = angular.shape[1] if n_outputs is None else n_outputs
    by_edge = products.new_zeros((len(centers), n_rows, h.shape[2])).index_add(1, out, products)
    return products.new_zeros((n_atoms, n_rows, h.shape[2])).index_add(0, centers, by_edge)


def symmetric_product(A: Tensor, coefficients: Tensor, species: Tensor, tree: Tensor, roots: Tensor) -> Tensor:
    """Polynomials of A, one per output and channel, given as a tree of monomials.

    Node n = (factor, first_child, last_child) stands for the monomial of the factors on its path from the
    root; its children are nodes first_child..last_child-1. Nodes roots[o]..roots[o+1]-1 are the first factors
    of output o:
    out[i, o, k] = sum over nodes n of output o of coefficients[species_i, n, k] prod A[i, factors of n, k].
    The compiled operator walks the tree by Horner's rule; here each monomial is formed, depth by depth.

    A: [N, LM, K]; coefficients: [S, n_nodes, K]; species: [N] int64; tree: [n_nodes, 3] int32;
    roots: [n_out+1] int32.  Returns [N, n_out, K].
    """
    factor, first, last = tree.to(A.device).long().unbind(1)
    bounds = roots.to(A.device).long()
    n_outputs = bounds.numel() - 1
    outputs = torch.arange(n_outputs, device=bounds.device)
    nodes = torch.arange(int(bounds[0]), int(bounds[-1]), device=bounds.device)
    owner = torch.repeat_interleave(outputs, bounds[1:] - bounds[:-1])  # the output each node belongs to
    selected = coefficients[species]  # [N, n_nodes, K]
    monomials = A[:, factor[nodes]]  # [N, nodes of this depth, K]
    result = A.new_zeros((A.shape[0], n_outputs, A.shape[2]))
    while nodes.numel() > 0:
        result = result.index_add(1, owner, selected[:, nodes] * monomials)
        n_children = last[nodes] - first[nodes]
        parent = torch.repeat_interleave(torch.arange(nodes.numel(), device=nodes.device), n_children)
        start = n_children.cumsum(0) - n_children  # position of the first child of each node among all children
        position = torch.arange(parent.numel(), device=nodes.device) - start[parent]
        nodes, owner = first[nodes][parent] + position, owner[parent]
        monomials = monomials[:, parent] * A[:, factor[nodes]]
    return result


def zbl(
    vectors: Tensor,
    centers: Tensor,
    center_numbers: Tensor,
    neighbor_numbers: Tensor,
    n_atoms: int,
    inner: float,
    outer: float,
) -> Tensor:
    """Screened nuclear repulsion per atom: half of the ZBL energy of each directed edge.

    E_ij = (e^2/4 pi epsilon_0) Z_i Z_j / r phi(r/a), a = 0.46850 Å/(Z_i^0.23 + Z_j^0.23), times a switch that
    is 1 below `inner`, 0 above `outer` and 1 - 10 t^3 + 15 t^4 - 6 t^5 between (Ziegler, Biersack, Littmark,
    The Stopping and Range of Ions in Solids, Pergamon 1985).

    vectors: [E, 3] Å; centers: [E] int64; center_numbers, neighbor_numbers: [E] atomic numbers as floats;
    inner < outer in Å.  Returns [n_atoms] eV.
    """
    distances = vectors.norm(dim=1)
    x = distances * (center_numbers**ZBL_EXPONENT + neighbor_numbers**ZBL_EXPONENT) / ZBL_LENGTH
    screening = sum((weight * torch.exp(-decay * x) for weight, decay in ZBL_TERMS), torch.zeros_like(x))
    t = ((distances - inner) / (outer - inner)).clamp(0.0, 1.0)
    switch = 1.0 - t**3 * (10.0 - 15.0 * t + 6.0 * t**2)
    energies = 0.5 * COULOMB_CONSTANT * center_numbers * neighbor_numbers / distances * screening * switch
    return energies.new_zeros(n_atoms).index_add(0, centers, energies)
