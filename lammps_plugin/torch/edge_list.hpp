// Edges within the cutoff, and what a program gives for them.
#pragma once

#include <cstdint>
#include <vector>

#include "tesseral/engine.hpp"

namespace tesseral {

/// The edges of all centers, sorted by center; without those of absent atoms.
class EdgeList {
 public:
  /// Throws NonFiniteResult for atoms on top of each other.
  void gather(const EngineInput& input, double cutoff);

  /// Forces and virials, overwritten, of the edge gradients [size, 3].
  void scatter(const EngineInput& input, const EngineOutput& output, const double* gradients) const;

  int64_t size() const { return static_cast<int64_t>(centers.size()); }

  std::vector<double> vectors;              // [size, 3] r_ij in Å
  std::vector<int64_t> centers, neighbors;  // [size] as in EngineInput
};

}  // namespace tesseral
