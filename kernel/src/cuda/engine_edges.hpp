// The edges of the native engine on a device: the neighbour list, the edges within the cutoff, and their gradients turned
// into forces.
#pragma once

#include <vector>

#include "device.hpp"
#include "tesseral/engine_atoms.hpp"

namespace tesseral::cuda {

/// Arrays of the atoms of a call.
struct DeviceAtoms {
  int64_t n_atoms = 0, n_centers = 0;
  DeviceArray<double> positions;      // [n_atoms, 3]
  DeviceArray<int64_t> species;       // [n_atoms]; 0 where the model leaves an atom out
  DeviceArray<unsigned char> absent;  // [n_atoms] 1 where it does
  DeviceArray<unsigned char> on_top;  // [n_centers] 1 where a neighbour is closer than shortest_distance
};

/// The neighbour list as it was given (or found, see neighbor_list.hpp): listed edges of center i are first[i] ..
/// first[i+1]-1.
struct DeviceList {
  DeviceArray<int64_t> first;      // [n_centers+1]
  DeviceArray<int32_t> neighbors;  // [listed]
  DeviceArray<double> shifts;      // [listed, 3] or empty
  int64_t listed = 0;
  bool found = false;  // on the device

  /// Copies the list, unless it was found here, and the species to the atoms.
  void upload(const EngineInput& input, DeviceAtoms& atoms);

 private:
  // kept, because fresh memory of this size takes longer than the copy
  std::vector<int32_t> host_neighbors_;
  std::vector<double> host_shifts_;

  void upload_rows(const EngineInput& input, const std::vector<int64_t>& bounds, bool shifted);
};

/// Numbers that the repulsion of a pair of species needs: [S, S] each.
template <class T>
struct PairTables {
  const T *strength, *inverse_screening, *outer;
};

/// Edges within the cutoff, those of center i at first[i] .. first[i+1]-1. Arrays have room for all that are listed; from
/// first[n_centers] on they hold a neighbour beyond the cutoff, so that loops over edges need not know how many there are.
template <class T>
class DeviceEdges {
 public:
  DeviceArray<int64_t> first;                        // [n_centers+1]
  DeviceArray<int64_t> neighbors, neighbor_species;  // [listed]
  DeviceArray<int64_t> tables;                       // [listed] center's species * S + neighbour's
  DeviceArray<T> vectors, distances, gradients;      // [listed, 3], [listed], [listed, 3] dE/d(vector)

  /// Sets all but the gradients.
  void take(const DeviceAtoms& atoms, const DeviceList& list, T cutoff, int n_species);

  /// Adds `more` [listed, 3] to the gradients.
  void add_gradients(const DeviceArray<T>& more);
  /// Adds the gradients by distances through radial functions: by_radial, slopes [listed, n_radial].
  void add_radial_gradients(const DeviceArray<T>& by_radial, const DeviceArray<T>& slopes, int n_radial);
  /// Adds the repulsion to the energies of the centers and to the gradients.
  void add_repulsion(const DeviceAtoms& atoms, const Repulsion& options, const PairTables<T>& pairs, int n_species,
                     double* energies);
  /// Forces [n_atoms, 3], added to; virials [n_centers, 9], set, and by neighbour [n_atoms, 9], added to; both may be null.
  /// Sums over neighbours are in no fixed order.
  template <class Sum>
  void add_forces(const DeviceAtoms& atoms, Sum* forces, double* virials, Sum* neighbor_virials) const;

 private:
  DeviceArray<int64_t> block_sums_;
};

}  // namespace tesseral::cuda
