// Rows of a neighbour list from the pairs of a search.
#pragma once

#include <cstdint>

namespace tesseral {

/// Pairs with r_ij = r_j - r_i + S @ cell, each in one of its two directions, in any order.
struct FoundPairs {
  int64_t n_pairs;
  const uint64_t* atoms;       // [n_pairs, 2]
  const int32_t* cell_shifts;  // [n_pairs, 3]
};

/// A full list, by center and then by neighbour: first [n_atoms+1], neighbors [2 n_pairs], cell_shifts [2 n_pairs, 3].
/// n_atoms < 2^31. Throws std::invalid_argument for an atom that does not exist.
void rows_of_pairs(int64_t n_atoms, const FoundPairs& pairs, int64_t* first, int32_t* neighbors, int32_t* cell_shifts);

/// S @ cell [n, 3] for cell shifts [n, 3] and lattice vectors as rows [3, 3].
void cartesian_shifts(int64_t n, const int32_t* cell_shifts, const double* cell, double* shifts);

}  // namespace tesseral
