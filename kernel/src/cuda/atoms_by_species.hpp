// The atoms of a block in the order of their species, so that those that share weights are taken together. Each block sorts
// its own few; nothing is stored between kernels.
#pragma once

#include "device.hpp"

namespace tesseral::cuda {

#if defined(__CUDACC__) || defined(TESSERAL_EMULATE)

/// In shared memory. `most` is a multiple of a warp.
template <int most>
struct AtomsBySpecies {
  int32_t atom[most];                 // which of the block's atoms come one after the other
  int32_t species[most];              // theirs
  int32_t given[most];                // species as the atoms are stored
  unsigned starts[most / warp_size];  // bits: where another species begins
};

/// Sorts `count` atoms from `first` on; all threads of the block call it, once. Without species all are of the first.
template <int most>
__device__ void sort_by_species(const int64_t* species, int64_t first, int count, AtomsBySpecies<most>& sorted) {
  const int thread = static_cast<int>(threadIdx.x), n_threads = static_cast<int>(blockDim.x);
  const auto common = static_cast<int32_t>(species ? species[first] : 0);
  bool differs = false;
  for (int n = thread; n < count; n += n_threads) {
    const auto own = static_cast<int32_t>(species ? species[first + n] : 0);
    sorted.given[n] = own;
    differs = differs || own != common;
  }
  const bool several = __syncthreads_or(differs) != 0;
  for (int n = thread; n < count; n += n_threads) {
    const int32_t own = sorted.given[n];
    int place = n;
    if (several) {
      place = 0;
      for (int other = 0; other < count; ++other) {
        place += sorted.given[other] < own || (sorted.given[other] == own && other < n);
      }
    }
    sorted.atom[place] = n;
    sorted.species[place] = own;
  }
  __syncthreads();
  for (int n = thread; n < most; n += n_threads) {
    const unsigned bits = __ballot_sync(all_lanes, n < count && (n == 0 || sorted.species[n] != sorted.species[n - 1]));
    if (n % warp_size == 0) sorted.starts[n / warp_size] = bits;
  }
  __syncthreads();
}

/// Where the species at place `first` ends.
template <int most>
__device__ int end_of_species(const AtomsBySpecies<most>& sorted, int first, int count) {
  for (int next = first + 1; next < count; next = (next / warp_size + 1) * warp_size) {
    const unsigned bits = sorted.starts[next / warp_size] >> (next % warp_size);
    if (bits != 0) return next + __ffs(static_cast<int>(bits)) - 1;
  }
  return count;
}

/// A part of the rows of the atoms first..last-1 in order, which are of one species: it begins with row `begin` of theirs.
struct PartOfSpecies {
  int first, last;
  int begin;
};

/// The n-th part if the `width` rows of each atom are cut into parts of at most `size` rows of one species; false if there
/// are fewer.
template <int most>
__device__ bool find_part(const AtomsBySpecies<most>& sorted, int count, int width, int size, int n, PartOfSpecies& part) {
  for (int first = 0; first < count;) {
    const int last = end_of_species(sorted, first, count), n_parts = ((last - first) * width + size - 1) / size;
    if (n < n_parts) {
      part = {first, last, n * size};
      return true;
    }
    n -= n_parts;
    first = last;
  }
  return false;
}

#endif

}  // namespace tesseral::cuda
