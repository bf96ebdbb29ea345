// Channel mixing A_{k lm} = sum_c W^l_{ck} phi_{c lm} and its adjoints. A block takes some components of one degree, so
// that its accumulators are counted when it is compiled, of several atoms; each thread uses the weights of its own atom's
// species, which are few enough for the nearest caches.
//
// mix: a thread takes 32 bytes of channels of one atom; phi of the block's atoms lies in shared memory.
// mix_input_gradient: eight threads take eight inputs of one atom; each sums over some of the channels, then they exchange
// sums so that each has one input.
// mix_weight_gradient: outer_products.hpp.
#include <algorithm>

#include "kernels.hpp"
#include "outer_products.hpp"
#include "vectors.hpp"

namespace tesseral::cuda {
namespace {

constexpr int threads = 128;
constexpr int most_components = 7;
constexpr std::size_t phi_bytes = 24 * 1024;  // of shared memory

/// Components first .. first+count-1 of degree l; count is 1, 3, 5 or 7.
struct Components {
  int l, first, count;
};

struct ComponentList {
  int size = 0;
  Components of[3 * (max_l + 1)];

  explicit ComponentList(int l_max) {
    for (int l = 0; l <= l_max; ++l) {
      for (int first = l * l, end = (l + 1) * (l + 1); first < end; first += of[size++].count) {
        const int left = end - first;
        of[size] = {l, first, left >= most_components ? most_components : left % 2 ? left : left - 1};
      }
    }
  }
};

/// Runs body(std::integral_constant<int, count>).
template <class Body>
__device__ void with_count(int count, Body body) {
  if (count == 7) body(std::integral_constant<int, 7>());
  if (count == 5) body(std::integral_constant<int, 5>());
  if (count == 3) body(std::integral_constant<int, 3>());
  if (count == 1) body(std::integral_constant<int, 1>());
}

/// phi [N, C, LM] and A [N, LM, K], one of which is the source and the other the target. Kernels with `whole` are for rows
/// of channels that are made of whole vectors.
template <class T>
struct MixArrays {
  const int64_t* species;
  const T* weights;  // [S, l_max+1, C, K]
  const T* source;
  T* target;
  Range range;
  int l_max, n_inputs, n_channels;

  __device__ int n_harmonics() const { return (l_max + 1) * (l_max + 1); }
  __device__ const T* weights_of(int64_t atom, int l) const {
    return weights + (species[atom] * (l_max + 1) + l) * n_inputs * n_channels;
  }
};

struct MixLayout {
  int atoms;    // of a block
  int threads;  // of an atom
  int tiles;    // of channels, for an atom
  int inputs;   // whose phi lies in shared memory at a time
  int stride;   // between the atoms there
};

template <class T, bool whole, int count>
__device__ void mix_components(const MixArrays<T>& arrays, const MixLayout& layout, const Components& own, int64_t first,
                               int tile) {
  constexpr int vectors = 2, V = vector_size<T>;
  T* const phi = shared_memory<T>();
  const int thread = static_cast<int>(threadIdx.x), slot = thread / layout.threads, n_harmonics = arrays.n_harmonics();
  const int64_t left = arrays.range.end - first, atom = first + slot;
  const int n_atoms = left < layout.atoms ? static_cast<int>(left) : layout.atoms;
  const int channel = (tile * layout.threads + thread % layout.threads) * vectors * V;
  const int n_own = slot < n_atoms ? arrays.n_channels - channel : 0;  // channels left, may be negative
  const T* weights = n_own > 0 ? arrays.weights_of(atom, own.l) + channel : nullptr;
  T sums[count][vectors * V] = {};
  for (int begin = 0; begin < arrays.n_inputs; begin += layout.inputs) {
    const int n_inputs = arrays.n_inputs - begin < layout.inputs ? arrays.n_inputs - begin : layout.inputs;
    __syncthreads();
    for (int a = thread / warp_size; a < n_atoms; a += threads / warp_size) {
      const T* source = arrays.source + ((first + a) * arrays.n_inputs + begin) * n_harmonics + own.first;
      for (int n = thread % warp_size; n < n_inputs * count; n += warp_size) {
        phi[a * layout.stride + n] = source[n / count * n_harmonics + n % count];
      }
    }
    __syncthreads();
    if (n_own <= 0) continue;
    const T* x = phi + slot * layout.stride;
    for (int c = 0; c < n_inputs; ++c, x += count, weights += arrays.n_channels) {
      TESSERAL_UNROLL for (int v = 0; v < vectors; ++v) {
        const Vector<T> w = load_vector(weights + v * V, n_own - v * V, whole);
        TESSERAL_UNROLL for (int m = 0; m < count; ++m) {
          TESSERAL_UNROLL for (int n = 0; n < V; ++n) sums[m][v * V + n] += x[m] * w.of[n];
        }
      }
    }
  }
  if (n_own <= 0) return;
  T* target = arrays.target + (atom * n_harmonics + own.first) * arrays.n_channels + channel;
  TESSERAL_UNROLL for (int m = 0; m < count; ++m, target += arrays.n_channels) {
    TESSERAL_UNROLL for (int v = 0; v < vectors; ++v) {
      Vector<T> out;
      TESSERAL_UNROLL for (int n = 0; n < V; ++n) out.of[n] = sums[m][v * V + n];
      store_vector(target + v * V, out, n_own - v * V, whole);
    }
  }
}

template <class T, bool whole>
__global__ void __launch_bounds__(threads) mix_of_atoms(MixArrays<T> arrays, MixLayout layout, ComponentList list) {
  const int64_t block = blockIdx.x / list.size;
  const Components own = list.of[blockIdx.x % list.size];
  const int64_t first = arrays.range.begin + block / layout.tiles * layout.atoms;
  with_count(own.count, [&](auto count) {
    mix_components<T, whole, decltype(count)::value>(arrays, layout, own, first, static_cast<int>(block % layout.tiles));
  });
}

template <class T>
MixArrays<T> mix_arrays(const MixShape<T>& shape, const T* weights, const T* source, Range range, T* target) {
  return {shape.species, weights, source, target, range, shape.l_max, shape.n_inputs, shape.n_channels};
}

template <class T>
void mix(const MixShape<T>& shape, const T* features, const T* weights, Range range, T* out) {
  if (shape.n_channels == 0) return;
  const ComponentList list(shape.l_max);
  const int64_t parts = blocks_for(shape.n_channels, 2 * vector_size<T>);
  MixLayout layout{};
  layout.threads = static_cast<int>(std::min<int64_t>(parts, 16));
  layout.tiles = static_cast<int>(blocks_for(parts, layout.threads));
  layout.atoms = threads / layout.threads;
  const std::size_t of_input = layout.atoms * most_components * sizeof(T);
  layout.inputs = std::max(1, std::min(shape.n_inputs, static_cast<int>(phi_bytes / of_input)));
  layout.stride = layout.inputs * most_components | 1;  // odd: atoms of a warp in other banks
  const int64_t blocks = blocks_for(range.end - range.begin, layout.atoms) * layout.tiles * list.size;
  launch(whole_vectors<T>(shape.n_channels) ? mix_of_atoms<T, true> : mix_of_atoms<T, false>, blocks, threads,
         layout.atoms * layout.stride * sizeof(T), mix_arrays(shape, weights, features, range, out), layout, list);
}

constexpr int lanes_of_inputs = 8;  // threads that share as many inputs of an atom

/// sums[c] of the threads whose lanes differ in the bits below 2 `half` are added up and end in that of lane c, in sums[0].
template <int half, class T, int count>
__device__ void exchange_sums(int lane, T (&sums)[lanes_of_inputs][count]) {
  const bool upper = lane & half;
  TESSERAL_UNROLL for (int c = 0; c < half; ++c) {
    TESSERAL_UNROLL for (int m = 0; m < count; ++m) {
      const T given = upper ? sums[c][m] : sums[c + half][m], kept = upper ? sums[c + half][m] : sums[c][m];
      sums[c][m] = kept + __shfl_xor_sync(all_lanes, given, half);
    }
  }
  if constexpr (half > 1) exchange_sums<half / 2>(lane, sums);
}

/// V: channels that a thread takes at a time, a whole vector or one.
template <class T, int count, int V>
__device__ void add_channels(const MixArrays<T>& arrays, const T* A, const T* weights, int n_inputs, int lane,
                             T (&sums)[lanes_of_inputs][count]) {
  struct alignas(V * sizeof(T)) Part {
    T of[V];
  };
  const auto part = [](const T* source) { return *reinterpret_cast<const Part*>(source); };
  for (int channel = lane * V; channel < arrays.n_channels; channel += lanes_of_inputs * V) {
    Part x[count];
    TESSERAL_UNROLL for (int m = 0; m < count; ++m) x[m] = part(A + static_cast<int64_t>(m) * arrays.n_channels + channel);
    TESSERAL_UNROLL for (int c = 0; c < lanes_of_inputs; ++c) {
      const int input = c < n_inputs ? c : 0;  // what the missing ones get is not used
      const Part w = part(weights + static_cast<int64_t>(input) * arrays.n_channels + channel);
      TESSERAL_UNROLL for (int m = 0; m < count; ++m) {
        TESSERAL_UNROLL for (int n = 0; n < V; ++n) sums[c][m] += x[m].of[n] * w.of[n];
      }
    }
  }
}

template <class T, bool whole, int count>
__device__ void input_gradient_of_components(const MixArrays<T>& arrays, const Components& own, int tiles, int64_t block) {
  const int lane = static_cast<int>(threadIdx.x) % lanes_of_inputs;
  const int64_t unit = block * (threads / lanes_of_inputs) + threadIdx.x / lanes_of_inputs;
  const bool exists = arrays.range.begin + unit / tiles < arrays.range.end;
  const int64_t atom = exists ? arrays.range.begin + unit / tiles : arrays.range.begin;
  const int first = static_cast<int>(unit % tiles) * lanes_of_inputs, n_harmonics = arrays.n_harmonics();
  const T* A = arrays.source + (atom * n_harmonics + own.first) * arrays.n_channels;
  const T* weights = arrays.weights_of(atom, own.l) + static_cast<int64_t>(first) * arrays.n_channels;
  T sums[lanes_of_inputs][count] = {};
  add_channels<T, count, whole ? vector_size<T> : 1>(arrays, A, weights, arrays.n_inputs - first, lane, sums);
  exchange_sums<lanes_of_inputs / 2>(lane, sums);
  if (!exists || first + lane >= arrays.n_inputs) return;
  T* target = arrays.target + (atom * arrays.n_inputs + first + lane) * n_harmonics + own.first;
  TESSERAL_UNROLL for (int m = 0; m < count; ++m) target[m] = sums[0][m];
}

template <class T, bool whole>
__global__ void __launch_bounds__(threads) mix_input_gradients(MixArrays<T> arrays, int tiles, ComponentList list) {
  const Components own = list.of[blockIdx.x % list.size];
  with_count(own.count, [&](auto count) {
    input_gradient_of_components<T, whole, decltype(count)::value>(arrays, own, tiles, blockIdx.x / list.size);
  });
}

template <class T>
void mix_input_gradient(const MixShape<T>& shape, const T* G, const T* weights, Range range, T* out) {
  const ComponentList list(shape.l_max);
  const int64_t tiles = blocks_for(shape.n_inputs, lanes_of_inputs), units = (range.end - range.begin) * tiles;
  launch(whole_vectors<T>(shape.n_channels) ? mix_input_gradients<T, true> : mix_input_gradients<T, false>,
         blocks_for(units, threads / lanes_of_inputs) * list.size, threads, 0, mix_arrays(shape, weights, G, range, out),
         static_cast<int>(tiles), list);
}

template <class T>
void mix_weight_gradient(const MixShape<T>& shape, const T* features, const T* G, Range range, T* out) {
  const int n_harmonics = (shape.l_max + 1) * (shape.l_max + 1);
  std::vector<RowBlock> blocks;
  for (int l = 0; l <= shape.l_max; ++l) blocks.push_back({l * l, l * l, 2 * l + 1, false});
  OuterProducts<T> products{};
  products.x = {features, static_cast<int64_t>(shape.n_inputs) * n_harmonics, 1, n_harmonics};
  products.G = G;
  products.out = out;
  products.species = shape.species;
  products.n_out = n_harmonics;
  products.n_inputs = shape.n_inputs;
  products.row = shape.n_channels;
  add_outer_products(products, blocks, range);
}

}  // namespace

template <class T>
void add_mix(Kernels<T>& kernels) {
  kernels.mix = mix<T>;
  kernels.mix_input_gradient = mix_input_gradient<T>;
  kernels.mix_weight_gradient = mix_weight_gradient<T>;
}
TESSERAL_INSTANTIATE(add_mix)

}  // namespace tesseral::cuda
