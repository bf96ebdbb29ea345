// Energies of atoms from their features, of the native engine on a device.
#pragma once

#include "device.hpp"
#include "tesseral/engine_atoms.hpp"

namespace tesseral::cuda {

/// A layer of the perceptron; rows of the matrices are padded.
template <class T>
struct DeviceDense {
  int n_in, n_out, row_in, row_out;
  const T *weights, *transposed, *bias;
};

/// Linear readout and multi-layer perceptron with SiLU.
template <class T>
class DeviceReadout {
 public:
  explicit DeviceReadout(const EngineParameters<T>& p);

  /// Adds scale times the energies of features x [n, row] to `energies` [n]; sets dx [n, row] to their gradients times
  /// scale.
  void run(int64_t n_atoms, const T* x, T* dx, int row, double* energies) const;

 private:
  DeviceArray<T> linear_, numbers_;
  DeviceArray<DeviceDense<T>> layers_;
  int n_layers_, n_hidden_ = 0, width_ = 0;
  T scale_;
};

/// Adds scale times the linear readout of the first of each atom's rows of features [n, atom_stride], `row` long, to the
/// energies.
template <class T>
void add_linear_energies(int64_t n_atoms, const T* features, int64_t atom_stride, const T* linear, int row, T scale,
                         double* energies);

}  // namespace tesseral::cuda
