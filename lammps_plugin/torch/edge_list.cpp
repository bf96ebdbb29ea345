#include "edge_list.hpp"

#include <algorithm>

namespace tesseral {

void EdgeList::gather(const EngineInput& input, double cutoff) {
  vectors.clear();
  centers.clear();
  neighbors.clear();
  for (int64_t i = 0; i < input.n_centers; ++i) {
    if (input.species[i] == EngineInput::absent) continue;
    const NeighborRow& row = input.rows[i];
    for (int32_t e = 0; e < row.count; ++e) {
      const int64_t j = row.first_atom + (row.neighbors[e] & input.index_bits);
      if (input.species[j] == EngineInput::absent) continue;
      double r[3];
      for (int axis = 0; axis < 3; ++axis) {
        r[axis] =
            input.positions[3 * j + axis] - input.positions[3 * i + axis] + (row.shifts ? row.shifts[3 * e + axis] : 0.0);
      }
      const double distance2 = r[0] * r[0] + r[1] * r[1] + r[2] * r[2];
      if (distance2 >= cutoff * cutoff) continue;
      if (distance2 < shortest_distance * shortest_distance) throw NonFiniteResult("energy", i);
      vectors.insert(vectors.end(), r, r + 3);
      centers.push_back(i);
      neighbors.push_back(j);
    }
  }
}

void EdgeList::scatter(const EngineInput& input, const EngineOutput& output, const double* gradients) const {
  std::fill_n(output.forces, 3 * input.n_atoms, 0.0);
  if (output.virials) std::fill_n(output.virials, 9 * input.n_centers, 0.0);
  if (output.neighbor_virials) std::fill_n(output.neighbor_virials, 9 * input.n_atoms, 0.0);
  if (output.total_virial) std::fill_n(output.total_virial, 9, 0.0);
  for (std::size_t e = 0; e < centers.size(); ++e) {
    const int64_t i = centers[e], j = neighbors[e];
    const double* g = gradients + 3 * e;
    const double* r = vectors.data() + 3 * e;
    for (int a = 0; a < 3; ++a) {
      output.forces[3 * i + a] += g[a];
      output.forces[3 * j + a] -= g[a];
      for (int b = 0; b < 3; ++b) {
        if (output.virials) output.virials[9 * i + 3 * a + b] += r[a] * g[b];
        if (output.neighbor_virials) output.neighbor_virials[9 * j + 3 * a + b] += r[a] * g[b];
        if (output.total_virial) output.total_virial[3 * a + b] += r[a] * g[b];
      }
    }
  }
}

}  // namespace tesseral
