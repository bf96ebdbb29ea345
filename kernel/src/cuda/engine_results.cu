#include <algorithm>

#include "engine_results.hpp"
#include "engine_rows.hpp"

namespace tesseral::cuda {
namespace {

template <class T>
void send_one(const DeviceArray<T>& from, HostArray<T>& to) {
  from.copy_to(to.data(), to.size());
}
template <class T>
void give_one(const HostArray<T>& from, double* to) {
  std::copy_n(from.data(), from.size(), to);
}

}  // namespace

template <class Sum>
void DeviceResults<Sum>::prepare(const EngineInput& input, const EngineOutput& output) {
  const auto n_atoms = static_cast<std::size_t>(input.n_atoms), n_centers = static_cast<std::size_t>(input.n_centers);
  const auto room = [](auto& on_device, auto& sent, std::size_t size) {
    on_device.resize(size);
    sent.resize(size);
  };
  room(energies, sent_energies_, n_centers);
  room(forces, sent_forces_, 3 * n_atoms);
  virials.resize(output.virials || output.total_virial ? 9 * n_centers : 0);
  sent_virials_.resize(output.virials ? virials.size() : 0);
  room(neighbor_virials, sent_neighbor_virials_, output.neighbor_virials ? 9 * n_atoms : 0);
  room(total_virial, sent_total_virial_, output.total_virial ? 9 : 0);
  room(fault_, sent_fault_, 1);
}

template <class Sum>
void DeviceResults<Sum>::clear() {
  forces.fill_zero();
  neighbor_virials.fill_zero();
  total_virial.fill_zero();
  fault_.fill(0xff);
}

template <class Sum>
void DeviceResults<Sum>::mark_layer(const DeviceAtoms& atoms, int layer) {
  mark_energies(atoms, energies.data(), static_cast<uint64_t>(layer * atoms.n_centers), fault_.data());
}

template <class Sum>
void DeviceResults<Sum>::send(const DeviceAtoms& atoms) {
  mark_energies(atoms, energies.data(), 0, nullptr);
  send_one(energies, sent_energies_);
  send_one(forces, sent_forces_);
  send_one(virials, sent_virials_);
  send_one(neighbor_virials, sent_neighbor_virials_);
  send_one(total_virial, sent_total_virial_);
  send_one(fault_, sent_fault_);
}

template <class Sum>
void DeviceResults<Sum>::give(const EngineOutput& output) const {
  give_one(sent_energies_, output.energies);
  give_one(sent_forces_, output.forces);
  if (output.virials) give_one(sent_virials_, output.virials);
  if (output.neighbor_virials) give_one(sent_neighbor_virials_, output.neighbor_virials);
  if (output.total_virial) give_one(sent_total_virial_, output.total_virial);
  const uint64_t fault = sent_fault_.data()[0];
  if (fault != UINT64_MAX) throw NonFiniteResult("energy", static_cast<int64_t>(fault % energies.size()));
}

template <class Sum>
bool DeviceResults<Sum>::pinned() const {
  return sent_energies_.pinned() && sent_virials_.pinned() && sent_forces_.pinned() && sent_neighbor_virials_.pinned() &&
         sent_total_virial_.pinned() && sent_fault_.pinned();
}

template class DeviceResults<float>;
template class DeviceResults<double>;

}  // namespace tesseral::cuda
