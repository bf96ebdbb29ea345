#include "engine_checks.hpp"

#include <cmath>
#include <stdexcept>
#include <string>

namespace tesseral {

void check_input(const EngineInput& input, int64_t n_species, bool on_device) {
  const auto fail = [](const std::string& what) { throw std::invalid_argument("Engine.compute: " + what); };
  if (input.n_centers > input.n_atoms) fail("there are more centers than atoms");
  if (!input.rows && input.n_centers > 0) {
    if (!on_device) fail("there is no neighbour list, and no device that has one");
    if (input.n_centers < input.n_atoms) fail("atoms that are no centers need a list with rows");
  }
  for (int64_t i = 0; i < input.n_atoms; ++i) {
    if (input.species[i] < EngineInput::absent || input.species[i] >= n_species) {
      fail("species[" + std::to_string(i) + "] = " + std::to_string(input.species[i]) + " is outside 0.." +
           std::to_string(n_species - 1));
    }
  }
  if (!input.rows) return;
  for (int64_t i = 0; i < input.n_centers; ++i) {
    const NeighborRow& row = input.rows[i];
    if (row.count < 0) fail("atom " + std::to_string(i) + " has " + std::to_string(row.count) + " neighbors");
    for (int32_t e = 0; e < row.count; ++e) {
      const int64_t j = row.first_atom + static_cast<int64_t>(row.neighbors[e] & input.index_bits);
      if (j < 0 || j >= input.n_atoms) {
        fail("neighbor " + std::to_string(e) + " of atom " + std::to_string(i) + " is " + std::to_string(j) +
             ", outside 0.." + std::to_string(input.n_atoms - 1));
      }
    }
  }
}

void check_neighbors_have_features(const EngineInput& input) {
  if (input.exchange || !input.rows) return;
  for (int64_t i = 0; i < input.n_centers; ++i) {
    const NeighborRow& row = input.rows[i];
    for (int32_t e = 0; e < row.count; ++e) {
      const int64_t j = row.first_atom + static_cast<int64_t>(row.neighbors[e] & input.index_bits);
      if (j < input.n_centers || input.species[j] == EngineInput::absent) continue;
      throw std::invalid_argument("Engine.compute: neighbor " + std::to_string(e) + " of atom " + std::to_string(i) +
                                  " is atom " + std::to_string(j) + ", which is not one of the " +
                                  std::to_string(input.n_centers) +
                                  " centers: a model with several layers needs the features of all neighbors, from an "
                                  "exchange or by making them centers");
    }
  }
}

int64_t first_fault(const EngineInput& input, const EngineOutput& output) {
  for (int64_t i = 0; i < input.n_centers; ++i) {
    if (!std::isfinite(output.energies[i])) return i;
  }
  return -1;
}

void check_output(const EngineInput& input, const EngineOutput& output) {
  const int64_t fault = first_fault(input, output);
  if (fault >= 0) throw NonFiniteResult("energy", fault);
  for (int64_t n = 0; n < 3 * input.n_atoms; ++n) {
    if (!std::isfinite(output.forces[n])) throw NonFiniteResult("force", n / 3);
  }
}

}  // namespace tesseral
