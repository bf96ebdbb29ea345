// The edges of an atom in the order of their neighbours' species, for a group of lanes of a warp.
#pragma once

#include "device.hpp"

namespace tesseral::cuda {

/// Edges of an atom by species, found as they are needed: one search through them for each species that occurs. The edges of
/// a species fill whole Words of places, with absent edges at the end.
class SpeciesQueue {
 public:
  static constexpr int absent = -1, none = INT32_MAX;

  /// `places`: room for 2 * size numbers.
  __device__ SpeciesQueue(int* places, int size, const int64_t* species, int n_edges)
      : edges_(places), species_(places + size), mask_(size - 1), all_species_(species), n_edges_(n_edges) {}

  /// Queues at least `wanted` edges, if there are so many. All lanes of the warp call it.
  __device__ void fill(int wanted, int word, int lanes) {
    const int own = static_cast<int>(threadIdx.x) % lanes;
    const int shift = static_cast<int>(threadIdx.x) % warp_size - own;  // of the group's bits
    while (__ballot_sync(all_lanes, count_ < wanted && current_ != none) != 0) {
      const bool searches = count_ < wanted && current_ != none;
      const int edge = searched_ + own;
      const int species = searches && edge < n_edges_ ? static_cast<int>(all_species_[edge]) : none;
      const bool found = searches && species == current_;
      const unsigned group = __ballot_sync(all_lanes, found) >> shift & (all_lanes >> (warp_size - lanes));
      if (found) put(count_ + __popc(group & ((1u << own) - 1)), edge);
      int later = species > current_ ? species : none;
      for (int offset = lanes / 2; offset > 0; offset /= 2) {
        const int other = __shfl_xor_sync(all_lanes, later, offset);
        later = other < later ? other : later;
      }
      if (!searches) continue;
      count_ += __popc(group);
      next_ = later < next_ ? later : next_;
      searched_ += lanes;
      if (searched_ < n_edges_) continue;
      for (; count_ % word != 0; ++count_) put(count_, absent);
      current_ = next_;
      next_ = none;
      searched_ = 0;
    }
    __syncwarp();
  }

  __device__ int count() const { return count_; }
  __device__ int edge(int n) const { return edges_[(head_ + n) & mask_]; }
  __device__ int species(int n) const { return species_[(head_ + n) & mask_]; }
  __device__ void remove(int n) {
    head_ += n;
    count_ -= n;
  }

 private:
  int *edges_, *species_;  // rings
  int mask_;
  const int64_t* all_species_;
  int n_edges_;
  int head_ = 0, count_ = 0, searched_ = 0, current_ = 0, next_ = none;

  __device__ void put(int n, int edge) {
    edges_[(head_ + n) & mask_] = edge;
    species_[(head_ + n) & mask_] = current_;
  }
};

}  // namespace tesseral::cuda
