// What a call of the native engine is checked for.
#pragma once

#include "tesseral/engine.hpp"

namespace tesseral {

/// Throws std::invalid_argument for indices outside of atoms or species, and for a list that is nowhere.
void check_input(const EngineInput& input, int64_t n_species, bool on_device);

/// Throws std::invalid_argument for neighbours without features, which come from centers, in this process or, with an
/// exchange, in another.
void check_neighbors_have_features(const EngineInput& input);

/// The list of EngineInput::list that was checked last, by itself and for these sizes and this way to get features.
struct CheckedList {
  int64_t number = 0, n_atoms = 0, n_centers = 0;
  bool exchanges = false;

  bool operator==(const CheckedList&) const = default;
};

/// First center whose energy is not finite, or -1.
int64_t first_fault(const EngineInput& input, const EngineOutput& output);

/// Throws NonFiniteResult for the first energy or force that is not finite.
void check_output(const EngineInput& input, const EngineOutput& output);

}  // namespace tesseral
