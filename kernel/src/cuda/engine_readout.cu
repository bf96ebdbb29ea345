// One warp works on one atom at a time: its lanes take the neurons of a layer in turn, and their inputs lie in shared
// memory.
#include <algorithm>

#include "engine_readout.hpp"
#include "kernels.hpp"

namespace tesseral::cuda {
namespace {

constexpr int threads = 128;

/// Where an atom's numbers begin in shared memory.
template <class T>
struct Workspace {
  T *input, *hidden, *slopes, *adjoint, *below;

  static __host__ __device__ int size(int row, int n_hidden, int width) { return row + 2 * n_hidden + 2 * width; }
  __device__ Workspace(T* own, int row, int n_hidden, int width)
      : input(own), hidden(input + row), slopes(hidden + n_hidden), adjoint(slopes + n_hidden), below(adjoint + width) {}
};

/// out[j] = sum_k x[k] W[k, j] for this warp.
template <class T, class Target>
__device__ void multiply(const T* x, int n_in, const T* weights, int row, int n_out, Target target) {
  for (int j = static_cast<int>(threadIdx.x % warp_size); j < n_out; j += warp_size) {
    T sum = 0;
    for (int k = 0; k < n_in; ++k) sum += x[k] * weights[k * row + j];
    target(j, sum);
  }
  __syncwarp();
}

template <class T>
__global__ void readouts(const DeviceDense<T>* layers, int n_layers, int n_hidden, int width, const T* linear, T scale,
                         int64_t n_atoms, const T* x, T* dx, int row, double* energies) {
  const int lane = static_cast<int>(threadIdx.x % warp_size), warp = static_cast<int>(threadIdx.x / warp_size);
  const int64_t i = global_thread() / warp_size;
  if (i >= n_atoms) return;
  Workspace<T> work(shared_memory<T>() + warp * Workspace<T>::size(row, n_hidden, width), row, n_hidden, width);
  T energy = 0;
  for (int k = lane; k < row; k += warp_size) {
    work.input[k] = x[i * row + k];
    energy += work.input[k] * linear[k];
  }
  energy = warp_sum(energy);
  __syncwarp();
  const T* input = work.input;
  int offset = 0;
  for (int n = 0; n < n_layers; ++n) {
    const DeviceDense<T> layer = layers[n];
    T *out = work.hidden + offset, *slope = work.slopes + offset;
    multiply(input, layer.n_in, layer.weights, layer.row_out, layer.n_out, [&](int j, T sum) {
      const T value = sum + layer.bias[j];
      const T gate = T(1) / (T(1) + exponential(-value));
      const bool last = n == n_layers - 1;
      out[j] = last ? value : value * gate;
      slope[j] = last ? T(1) : gate * (T(1) + value * (T(1) - gate));
    });
    input = out;
    offset += layer.n_out;
  }
  if (n_layers > 0) energy += input[0];
  if (lane == 0) energies[i] += static_cast<double>(scale * energy);

  // backwards: the adjoint of a layer's sums, from the last, whose only one is 1
  T *adjoint = work.adjoint, *below = work.below;
  if (lane == 0) adjoint[0] = 1;
  __syncwarp();
  for (int n = n_layers - 1; n >= 0; --n) {
    const DeviceDense<T> layer = layers[n];
    offset -= layer.n_out;
    const T* slope = work.slopes + offset - layer.n_in;
    multiply(adjoint, layer.n_out, layer.transposed, layer.row_in, layer.n_in,
             [&](int j, T sum) { below[j] = n > 0 ? sum * slope[j] : sum; });
    T* other = adjoint;
    adjoint = below;
    below = other;
  }
  const int n_in = n_layers > 0 ? layers[0].n_in : 0;
  for (int k = lane; k < row; k += warp_size) dx[i * row + k] = scale * (linear[k] + (k < n_in ? adjoint[k] : T(0)));
}

template <class T>
__global__ void linear_energies(int64_t n_atoms, const T* features, int64_t atom_stride, const T* linear, int row, T scale,
                                double* energies) {
  const int64_t i = global_thread() / warp_size;
  if (i >= n_atoms) return;
  T energy = 0;
  for (int k = static_cast<int>(threadIdx.x % warp_size); k < row; k += warp_size) {
    energy += features[i * atom_stride + k] * linear[k];
  }
  energy = warp_sum(energy);
  if (threadIdx.x % warp_size == 0) energies[i] += static_cast<double>(scale * energy);
}

}  // namespace

template <class T>
DeviceReadout<T>::DeviceReadout(const EngineParameters<T>& p)
    : linear_(DeviceArray<T>::from(p.linear)), n_layers_(static_cast<int>(p.perceptron.size())), scale_(p.scale) {
  std::vector<T> numbers;
  const auto append = [&](const AlignedVector<T>& values) {
    numbers.insert(numbers.end(), values.begin(), values.end());
    return static_cast<std::ptrdiff_t>(numbers.size() - values.size());
  };
  std::vector<std::ptrdiff_t> places;
  for (const DenseLayer<T>& layer : p.perceptron) {
    for (const auto* values : {&layer.weights, &layer.transposed, &layer.bias}) places.push_back(append(*values));
    n_hidden_ += layer.n_out;
    width_ = std::max({width_, layer.n_in, layer.n_out});
  }
  width_ = std::max(width_, 1);
  numbers_ = DeviceArray<T>::from(numbers);
  std::vector<DeviceDense<T>> layers;
  for (std::size_t n = 0; n < p.perceptron.size(); ++n) {
    const DenseLayer<T>& layer = p.perceptron[n];
    const T* base = numbers_.data();
    layers.push_back({layer.n_in, layer.n_out, padded_row(layer.n_in), padded_row(layer.n_out), base + places[3 * n],
                      base + places[3 * n + 1], base + places[3 * n + 2]});
  }
  layers_ = DeviceArray<DeviceDense<T>>::from(layers);
}

template <class T>
void DeviceReadout<T>::run(int64_t n_atoms, const T* x, T* dx, int row, double* energies) const {
  const std::size_t bytes = Workspace<T>::size(row, n_hidden_, width_) * sizeof(T);
  const auto warps = static_cast<int>(std::min<std::size_t>(threads / warp_size, most_shared_bytes / bytes));
  if (warps == 0) throw std::length_error("CUDA: the readout has too many neurons for the memory of a block");
  const Label label("readout");
  launch(readouts<T>, blocks_for(n_atoms, warps), warps * warp_size, warps * bytes, layers_.data(), n_layers_, n_hidden_,
         width_, linear_.data(), scale_, n_atoms, x, dx, row, energies);
}

template <class T>
void add_linear_energies(int64_t n_atoms, const T* features, int64_t atom_stride, const T* linear, int row, T scale,
                         double* energies) {
  const Label label("readout");
  launch(linear_energies<T>, blocks_for(n_atoms, threads / warp_size), threads, 0, n_atoms, features, atom_stride, linear,
         row, scale, energies);
}

template class DeviceReadout<float>;
template class DeviceReadout<double>;
template void add_linear_energies(int64_t, const float*, int64_t, const float*, int, float, double*);
template void add_linear_energies(int64_t, const double*, int64_t, const double*, int, double, double*);

}  // namespace tesseral::cuda
