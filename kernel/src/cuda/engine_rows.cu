#include <algorithm>

#include "channels.hpp"
#include "engine_rows.hpp"
#include "multiprocessors.hpp"

namespace tesseral::cuda {
namespace {

constexpr int threads = 128;

__global__ void baseline(int64_t n, const int64_t* species, const double* atomic_energy, double* energies) {
  const int64_t i = global_thread();
  if (i < n) energies[i] = atomic_energy[species[i]];
}

__global__ void mark(int64_t n, const unsigned char* absent, const unsigned char* on_top, double* energies,
                     uint64_t first_number, uint64_t* fault) {
  const int64_t i = global_thread();
  if (i >= n) return;
  if (absent[i]) energies[i] = 0;
  if (on_top[i]) energies[i] = nan("");
  if (fault && energies[i] - energies[i] != 0) {  // not finite
    atomicMin(reinterpret_cast<unsigned long long*>(fault), static_cast<unsigned long long>(first_number) + i);
  }
}

/// Each warp: 32 centers at a time, n_warps such groups apart. No more warps than fill the device, as each adds to the same
/// nine numbers.
__global__ void virials_summed(int64_t n, int64_t n_warps, const double* virials, double* total) {
  const int64_t warp = global_thread() / warp_size;
  if (warp >= n_warps) return;
  double sums[9] = {};
  for (int64_t i = warp * warp_size + lane_of_warp(); i < n; i += n_warps * warp_size) {
    for (int k = 0; k < 9; ++k) sums[k] += virials[9 * i + k];
  }
  for (int k = 0; k < 9; ++k) {
    const double sum = warp_sum(sums[k]);
    if (lane_of_warp() == 0) atomicAdd(&total[k], sum);
  }
}

/// One warp: one atom.
template <class T>
__global__ void constants_added(int64_t n, const int64_t* species, const T* constants, int row, T* rows, int64_t stride) {
  const int64_t i = global_thread() / warp_size;
  if (i >= n) return;
  constants += species[i] * row;
  rows += i * stride;
  for (int k = lane_of_warp(); k < row; k += warp_size) rows[k] += constants[k];
}

/// One warp: one atom.
template <class T>
__global__ void copied(int64_t n, const T* x, int64_t stride, const T* numbers, int row, T factor, T* out) {
  const int64_t i = global_thread() / warp_size;
  if (i >= n) return;
  x += i * stride;
  out += i * stride;
  for (int k = lane_of_warp(); k < stride; k += warp_size) out[k] = x[k] + (k < row ? factor * numbers[k] : T(0));
}

/// One thread: the sum of one center in one layer.
template <class T>
__global__ void sums_of(Normalisers<T> all, int64_t begin, int64_t n, const int64_t* species, const T* phi) {
  const int64_t k = global_thread();
  if (k >= n * all.n_layers) return;
  const int64_t i = k % n, layer = k / n;
  const T* weights = all.weights + (layer * all.n_species + species[begin + i]) * all.n_inputs;
  T sum = 1;
  for (int c = 0; c < all.n_inputs; ++c) sum += weights[c] * phi[(i * all.n_inputs + c) * all.n_harmonics];
  all.sums[layer * all.n_centers + begin + i] = sum;
}

/// One warp: one center.
template <class T>
__global__ void divided(const T* sums, int64_t n, T* A, int size) {
  const int64_t i = global_thread() / warp_size;
  if (i >= n) return;
  const T sum = sums[i];
  A += i * size;
  for (int k = lane_of_warp(); k < size; k += warp_size) A[k] /= sum;
}

/// One warp: one center.
template <class T>
__global__ void gradients_of(const T* sums, T* adjoints, int64_t n, const T* A, T* dA, int size) {
  const int64_t i = global_thread() / warp_size;
  if (i >= n) return;
  const T factor = T(1) / sums[i];
  T sum = 0;
  for (int64_t k = i * size + lane_of_warp(); k < (i + 1) * size; k += warp_size) {
    sum += dA[k] * A[k];
    dA[k] *= factor;
  }
  sum = warp_sum(sum);
  if (lane_of_warp() == 0) adjoints[i] = -sum * factor;
}

/// One thread: one input of one center.
template <class T>
__global__ void gradients_added(Normalisers<T> all, int64_t begin, int64_t n, const int64_t* species, T* dphi) {
  const int64_t k = global_thread();
  if (k >= n * all.n_inputs) return;
  const int64_t i = begin + k / all.n_inputs, c = k % all.n_inputs;
  T sum = 0;
  for (int layer = 0; layer < all.n_layers; ++layer) {
    sum += all.adjoints[layer * all.n_centers + i] * all.weights[(layer * all.n_species + species[i]) * all.n_inputs + c];
  }
  dphi[k * all.n_harmonics] += sum;
}

}  // namespace

void set_baseline(int64_t n, const int64_t* species, const double* atomic_energy, double* energies) {
  launch(baseline, blocks_for(n, threads), threads, 0, n, species, atomic_energy, energies);
}
void mark_energies(const DeviceAtoms& atoms, double* energies, uint64_t first_number, uint64_t* fault) {
  launch(mark, blocks_for(atoms.n_centers, threads), threads, 0, atoms.n_centers, atoms.absent.data(), atoms.on_top.data(),
         energies, first_number, fault);
}

void sum_virials(int64_t n, const double* virials, double* total) {
  const int64_t n_warps = std::min<int64_t>(blocks_for(n, warp_size), 16 * multiprocessors());
  launch(virials_summed, blocks_for(n_warps, threads / warp_size), threads, 0, n, n_warps, virials, total);
}

template <class T>
void add_constants(int64_t n, const int64_t* species, const T* constants, int row, T* rows, int64_t stride) {
  launch(constants_added<T>, blocks_for(n, threads / warp_size), threads, 0, n, species, constants, row, rows, stride);
}
template <class T>
void copy_and_add(int64_t n, const T* x, int64_t stride, const T* numbers, int row, T factor, T* out) {
  launch(copied<T>, blocks_for(n, threads / warp_size), threads, 0, n, x, stride, numbers, row, factor, out);
}

template <class T>
void Normalisers<T>::set(int64_t begin, int64_t n, const int64_t* species, const T* phi) const {
  launch(sums_of<T>, blocks_for(n * n_layers, threads), threads, 0, *this, begin, n, species, phi);
}
template <class T>
void Normalisers<T>::divide(int layer, int64_t begin, int64_t n, T* A, int size) const {
  launch(divided<T>, blocks_for(n, threads / warp_size), threads, 0, sums + layer * n_centers + begin, n, A, size);
}
template <class T>
void Normalisers<T>::take_gradient(int layer, int64_t begin, int64_t n, const T* A, T* dA, int size) const {
  const int64_t first = layer * n_centers + begin;
  launch(gradients_of<T>, blocks_for(n, threads / warp_size), threads, 0, sums + first, adjoints + first, n, A, dA, size);
}
template <class T>
void Normalisers<T>::add_gradients(int64_t begin, int64_t n, const int64_t* species, T* dphi) const {
  launch(gradients_added<T>, blocks_for(n * n_inputs, threads), threads, 0, *this, begin, n, species, dphi);
}

template void add_constants(int64_t, const int64_t*, const float*, int, float*, int64_t);
template void add_constants(int64_t, const int64_t*, const double*, int, double*, int64_t);
template void copy_and_add(int64_t, const float*, int64_t, const float*, int, float, float*);
template void copy_and_add(int64_t, const double*, int64_t, const double*, int, double, double*);
template struct Normalisers<float>;
template struct Normalisers<double>;

}  // namespace tesseral::cuda
