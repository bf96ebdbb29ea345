// Pairs in any order become rows: their centers are counted, the counts summed up, the pairs put into their rows and each
// row sorted. The order within a row is that of neighbours and shifts, so it does not depend on that of the pairs, which
// changes from search to search.
#include <algorithm>

#include "neighbor_list.hpp"
#include "scan.hpp"

namespace tesseral::cuda {
namespace {

constexpr int threads = 128, warps = threads / warp_size;

/// Lattice vectors as rows.
struct Cell {
  double rows[9];

  explicit Cell(const double* cell) { std::copy_n(cell, 9, rows); }
};

/// Neighbour and shift of edges.
struct Found {
  int32_t *neighbors, *cell_shifts;
};

/// Number of pairs of each center; whether one has an atom that does not exist.
__global__ void count_pairs(DevicePairs pairs, int64_t n_atoms, int32_t* counts, int32_t* fault) {
  const int64_t p = global_thread();
  if (p >= pairs.n_pairs) return;
  const uint64_t i = pairs.atoms[2 * p], j = pairs.atoms[2 * p + 1], n = static_cast<uint64_t>(n_atoms);
  if (i < n && j < n) {
    atomicAdd(&counts[i], 1);
  } else {
    atomicAdd(fault, 1);
  }
}

/// The counts go to `first`, and become zero.
__global__ void take_counts(int64_t n_atoms, int32_t* counts, int64_t* first) {
  const int64_t i = global_thread();
  if (i >= n_atoms) return;
  first[i] = counts[i];
  counts[i] = 0;
}

__global__ void fill_rows(DevicePairs pairs, const int64_t* first, int32_t* counts, Found out) {
  const int64_t p = global_thread();
  if (p >= pairs.n_pairs) return;
  const uint64_t i = pairs.atoms[2 * p];
  const int64_t e = first[i] + atomicAdd(&counts[i], 1);
  out.neighbors[e] = static_cast<int32_t>(pairs.atoms[2 * p + 1]);
  for (int axis = 0; axis < 3; ++axis) out.cell_shifts[3 * e + axis] = pairs.cell_shifts[3 * p + axis];
}

/// Whether edge a comes before edge b of the same row; one of two always does, should a pair be there twice.
__device__ inline bool before(const Found& edges, int64_t a, int64_t b) {
  if (edges.neighbors[a] != edges.neighbors[b]) return edges.neighbors[a] < edges.neighbors[b];
  for (int axis = 0; axis < 3; ++axis) {
    const int32_t s = edges.cell_shifts[3 * a + axis], t = edges.cell_shifts[3 * b + axis];
    if (s != t) return s < t;
  }
  return a < b;
}

/// One warp per row: each edge goes to the place that the number of those before it says.
__global__ void sort_rows(int64_t n_atoms, const int64_t* first, Found edges, Found out) {
  const int64_t i = global_thread() / warp_size;
  if (i >= n_atoms) return;
  for (int64_t e = first[i] + threadIdx.x % warp_size; e < first[i + 1]; e += warp_size) {
    int64_t place = first[i];
    for (int64_t other = first[i]; other < first[i + 1]; ++other) place += before(edges, other, e);
    out.neighbors[place] = edges.neighbors[e];
    for (int axis = 0; axis < 3; ++axis) out.cell_shifts[3 * place + axis] = edges.cell_shifts[3 * e + axis];
  }
}

/// S @ cell
__global__ void set_shifts(int64_t listed, const int32_t* cell_shifts, Cell cell, double* shifts) {
  const int64_t e = global_thread();
  if (e >= listed) return;
  for (int axis = 0; axis < 3; ++axis) {
    double sum = 0;
    for (int row = 0; row < 3; ++row) sum += cell_shifts[3 * e + row] * cell.rows[3 * row + axis];
    shifts[3 * e + axis] = sum;
  }
}

}  // namespace

DevicePoints FoundList::upload_points(int64_t n_atoms, const double* positions, const double* cell) {
  const bool periodic[3] = {true, true, true};
  positions_.upload(positions, 3 * static_cast<std::size_t>(n_atoms));
  cell_.upload(cell, 9);
  periodic_.upload(periodic, 3);
  wait();  // the search has a stream of its own
  return {positions_.data(), cell_.data(), periodic_.data()};
}

void FoundList::set(int64_t n_atoms, const DevicePairs& pairs, const double* cell, DeviceList& list) {
  list.found = false;
  const auto n = static_cast<std::size_t>(n_atoms), n_pairs = static_cast<std::size_t>(pairs.n_pairs);
  DeviceArray<int32_t> counts(n), fault(1), neighbors(n_pairs), cell_shifts(3 * n_pairs);
  counts.fill_zero();
  fault.fill_zero();
  list.first.resize(n + 1);
  list.first.fill_zero();
  list.neighbors.resize(n_pairs);
  cell_shifts_.resize(3 * n_pairs);
  const int64_t pair_blocks = blocks_for(pairs.n_pairs, threads);
  launch(count_pairs, pair_blocks, threads, 0, pairs, n_atoms, counts.data(), fault.data());
  int32_t faulty = 0;
  fault.download(&faulty, 1);
  if (faulty != 0) throw std::runtime_error("Engine.set_list: a pair has an atom that does not exist");
  launch(take_counts, blocks_for(n_atoms, threads), threads, 0, n_atoms, counts.data(), list.first.data());
  scan(list.first.data(), n_atoms, block_sums_);
  const Found unsorted{neighbors.data(), cell_shifts.data()}, sorted{list.neighbors.data(), cell_shifts_.data()};
  launch(fill_rows, pair_blocks, threads, 0, pairs, list.first.data(), counts.data(), unsorted);
  launch(sort_rows, blocks_for(n_atoms, warps), threads, 0, n_atoms, list.first.data(), unsorted, sorted);
  list.listed = pairs.n_pairs;
  list.found = true;
  set_cell(cell, list);
}

void FoundList::set_cell(const double* cell, DeviceList& list) {
  if (!list.found) throw std::runtime_error("Engine.set_cell: there is no list that was found on the device");
  list.shifts.resize(3 * static_cast<std::size_t>(list.listed));
  launch(set_shifts, blocks_for(list.listed, threads), threads, 0, list.listed, cell_shifts_.data(), Cell(cell),
         list.shifts.data());
  wait();  // the caller may free the pairs
}

}  // namespace tesseral::cuda
