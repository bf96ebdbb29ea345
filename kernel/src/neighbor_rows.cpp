#include "tesseral/neighbor_rows.hpp"

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace tesseral {
namespace {

/// One direction of a pair, without its center.
struct Edge {
  int32_t neighbor;
  int32_t shift[3];
};

void check_atoms(int64_t n_atoms, const FoundPairs& pairs) {
  uint64_t largest = 0;
  for (int64_t k = 0; k < 2 * pairs.n_pairs; ++k) largest = std::max(largest, pairs.atoms[k]);
  if (pairs.n_pairs == 0 || largest < static_cast<uint64_t>(n_atoms)) return;
  throw std::invalid_argument("rows_of_pairs: a pair has atom " + std::to_string(largest) + ", outside 0.." +
                              std::to_string(n_atoms - 1));
}

}  // namespace

void rows_of_pairs(int64_t n_atoms, const FoundPairs& pairs, int64_t* first, int32_t* neighbors, int32_t* cell_shifts) {
  check_atoms(n_atoms, pairs);
  const uint64_t* atoms = pairs.atoms;
  std::fill_n(first, n_atoms + 1, 0);
  for (int64_t k = 0; k < 2 * pairs.n_pairs; ++k) ++first[atoms[k] + 1];
  for (int64_t i = 0; i < n_atoms; ++i) first[i + 1] += first[i];

  std::vector<int64_t> place(first, first + n_atoms);
  const std::unique_ptr<Edge[]> edges(new Edge[static_cast<std::size_t>(2 * pairs.n_pairs)]);  // by center
  for (int64_t p = 0; p < pairs.n_pairs; ++p) {
    const uint64_t i = atoms[2 * p], j = atoms[2 * p + 1];
    const int32_t* shift = pairs.cell_shifts + 3 * p;
    edges[static_cast<std::size_t>(place[i]++)] = {static_cast<int32_t>(j), {shift[0], shift[1], shift[2]}};
    edges[static_cast<std::size_t>(place[j]++)] = {static_cast<int32_t>(i), {-shift[0], -shift[1], -shift[2]}};
  }

  // Every edge once more from its other end: by ascending center, which fills the rows by ascending neighbour.
  place.assign(first, first + n_atoms);
  for (int64_t i = 0; i < n_atoms; ++i) {
    for (int64_t e = first[i]; e < first[i + 1]; ++e) {
      const Edge& edge = edges[static_cast<std::size_t>(e)];
      const int64_t target = place[static_cast<std::size_t>(edge.neighbor)]++;
      neighbors[target] = static_cast<int32_t>(i);
      for (int axis = 0; axis < 3; ++axis) cell_shifts[3 * target + axis] = -edge.shift[axis];
    }
  }
}

void cartesian_shifts(int64_t n, const int32_t* cell_shifts, const double* cell, double* shifts) {
  for (int64_t e = 0; e < n; ++e) {
    const double a = cell_shifts[3 * e], b = cell_shifts[3 * e + 1], c = cell_shifts[3 * e + 2];
    for (int axis = 0; axis < 3; ++axis) shifts[3 * e + axis] = a * cell[axis] + b * cell[3 + axis] + c * cell[6 + axis];
  }
}

}  // namespace tesseral
