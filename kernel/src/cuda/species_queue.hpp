// The edges of an atom in the order of their neighbours' species, for a group of lanes of a warp.
#pragma once

#include "device.hpp"

namespace tesseral::cuda {

/// Edges are found as they are needed, by one search through all for each species (where there are many: for each that
/// occurs). Those of a species fill whole words of places, with absent edges at the end.
class SpeciesQueue {
 public:
  static constexpr int absent = -1;

  /// `places`: room for 2 * size numbers, size a power of two and at least four times the lanes; `species` of each edge.
  __device__ SpeciesQueue(int* places, int size, const int64_t* species, int n_edges, int n_species, int lanes)
      : edges_(places),
        species_(places + size),
        mask_(size - 1),
        all_species_(species),
        n_edges_(n_edges),
        n_species_(n_edges > 0 ? n_species : 0),
        jumps_(n_species > most_searched),
        lanes_(lanes),
        own_(static_cast<int>(threadIdx.x) % lanes),
        shift_(static_cast<int>(threadIdx.x) % warp_size - own_),
        next_(n_species) {}

  /// Queues at least `wanted` edges, if there are so many. All lanes of the warp call it.
  __device__ void fill(int wanted, int word) {
    for (;;) {
      const bool searches = count_ < wanted && current_ < n_species_;
      if (__ballot_sync(all_lanes, searches) == 0) break;
      const int edge = searched_ + own_;
      const int species = searches && edge < n_edges_ ? static_cast<int>(all_species_[edge]) : n_species_;
      const bool found = searches && species == current_;
      const unsigned of_group = __ballot_sync(all_lanes, found) >> shift_ & (all_lanes >> (warp_size - lanes_));
      if (found) put(count_ + __popc(of_group & ((1u << own_) - 1)), edge);
      if (jumps_) look_for_next(species);
      if (searches) {
        count_ += __popc(of_group);
        searched_ += lanes_;
        if (searched_ >= n_edges_) go_on(word);
      }
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
  static constexpr int most_searched = 8;  // species, whether they occur or not

  int *edges_, *species_;  // rings
  int mask_;
  const int64_t* all_species_;
  int n_edges_, n_species_;
  bool jumps_;
  int lanes_, own_, shift_;  // shift_: of the group's bits
  int head_ = 0, count_ = 0, searched_ = 0, current_ = 0;
  int next_;  // the least species above the current one that was seen

  __device__ void put(int n, int edge) {
    edges_[(head_ + n) & mask_] = edge;
    species_[(head_ + n) & mask_] = current_;
  }
  __device__ void look_for_next(int species) {
    int later = species > current_ ? species : n_species_;
    for (int offset = lanes_ / 2; offset > 0; offset /= 2) {
      const int other = __shfl_xor_sync(all_lanes, later, offset);
      later = other < later ? other : later;
    }
    next_ = later < next_ ? later : next_;
  }
  /// To the next species.
  __device__ void go_on(int word) {
    const int missing = (word - count_ % word) % word;
    if (own_ < missing) put(count_ + own_, absent);
    count_ += missing;
    current_ = jumps_ ? next_ : current_ + 1;
    next_ = n_species_;
    searched_ = 0;
  }
};

}  // namespace tesseral::cuda
