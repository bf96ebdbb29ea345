// What a call of the native engine on a device gives, there and on the way back.
#pragma once

#include "engine_edges.hpp"
#include "host_array.hpp"

namespace tesseral::cuda {

template <class Sum>
class DeviceResults {
 public:
  DeviceArray<double> energies;       // [n_centers]
  DeviceArray<Sum> forces;            // [n_atoms, 3]
  DeviceArray<double> virials;        // [n_centers, 9], or empty; also where only their sum is wanted
  DeviceArray<Sum> neighbor_virials;  // [n_atoms, 9], or empty
  DeviceArray<double> total_virial;   // [9], or empty

  /// Makes room for what is wanted.
  void prepare(const EngineInput& input, const EngineOutput& output);
  /// Puts zeros where numbers are added up.
  void clear();

  /// Marks the energies (mark_energies), which are those of the layers up to this one; notes the first faulty center.
  void mark_layer(const DeviceAtoms& atoms, int layer);
  /// Marks the energies and copies everything to the host, in the order of the stream.
  void send(const DeviceAtoms& atoms);
  /// Gives what was sent, when the stream has been waited for. Throws NonFiniteResult for the atom at fault, where there
  /// were layers before the last: it is known from others that it reaches.
  void give(const EngineOutput& output) const;

  /// Whether copies go to where they went before, as in a graph.
  bool pinned() const;

 private:
  DeviceArray<uint64_t> fault_;  // layer * n_centers + center, or the largest number
  HostArray<double> sent_energies_, sent_virials_, sent_total_virial_;
  HostArray<Sum> sent_forces_, sent_neighbor_virials_;
  HostArray<uint64_t> sent_fault_;
};

}  // namespace tesseral::cuda
