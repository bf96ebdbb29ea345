// Small operations on the rows of channels of atoms, of the native engine on a device.
#pragma once

#include "engine_edges.hpp"

namespace tesseral::cuda {

/// energies [n] become atomic_energy[species].
void set_baseline(int64_t n, const int64_t* species, const double* atomic_energy, double* energies);
/// Energies of atoms that the model leaves out become zero, of those with a neighbour on top of them not a number. Where
/// `fault` is not null, it becomes the smallest first_number + center of energies that are not finite, if it was larger.
void mark_energies(const DeviceAtoms& atoms, double* energies, uint64_t first_number, uint64_t* fault);

/// Adds the virials [n, 9] of centers to their sum [9], in no fixed order.
void sum_virials(int64_t n, const double* virials, double* total);

/// rows [n, stride] += constants [S, row] of each atom's species.
template <class T>
void add_constants(int64_t n, const int64_t* species, const T* constants, int row, T* rows, int64_t stride);
/// out [n, stride] = x, and `factor` times numbers [row] added to the first of each atom's rows.
template <class T>
void copy_and_add(int64_t n, const T* x, int64_t stride, const T* numbers, int row, T factor, T* out);

/// The denominators of A, see EngineParameters::normaliser. Arrays of all layers have one row of `n_centers` per layer.
template <class T>
struct Normalisers {
  const T* weights;  // [layers, S, n_inputs]
  int n_layers, n_species, n_inputs, n_harmonics, n_radial;
  int64_t n_centers;
  T *sums, *adjoints;  // [layers, n_centers]

  /// Sets the sums of all layers of the centers begin .. begin+n-1 from their density phi [n, n_inputs, n_harmonics].
  void set(int64_t begin, int64_t n, const int64_t* species, const T* phi) const;
  /// A [n, size] divided by the sums of a layer.
  void divide(int layer, int64_t begin, int64_t n, T* A, int size) const;
  /// dA becomes the gradient by A before the division; sets the adjoints of a layer. A: after the division.
  void take_gradient(int layer, int64_t begin, int64_t n, const T* A, T* dA, int size) const;
  /// Adds the gradients of all layers' sums to dphi [n, n_inputs, n_harmonics].
  void add_gradients(int64_t begin, int64_t n, const int64_t* species, T* dphi) const;
};

/// What Normalisers work on.
template <class T>
struct NormaliserArrays {
  DeviceArray<T> sums, adjoints;

  /// weights: EngineParameters::normaliser on the device.
  Normalisers<T> of(const EngineParameters<T>& p, const T* weights, int64_t n_centers) {
    for (auto* array : {&sums, &adjoints}) array->resize(static_cast<std::size_t>(n_centers * p.n_layers()));
    return {weights,   p.n_layers(), p.density.n_species, p.n_inputs, p.n_harmonics(), p.density.radial.n_radial,
            n_centers, sums.data(),  adjoints.data()};
  }
};

}  // namespace tesseral::cuda
