// Symmetric products of atoms and their gradients. A thread takes one channel of a few atoms (16 bytes of numbers) and walks
// the tree with the sums of its levels in registers; A and its gradient lie in shared memory, [LM][threads], because the
// tree says which component comes next. Neighbouring threads take neighbouring channels, so that the coefficients are read
// and their gradients written in whole lines. A block takes `channels` channels of `atoms` atoms, which it sorts by species:
// atoms of one species share the loads of the coefficients, and the sums of the coefficients' gradients, which are added
// to those of other blocks in any order: they may differ by rounding from run to run.
#include <algorithm>

#include "atoms_by_species.hpp"
#include "kernels.hpp"
#include "tables.hpp"
#include "tesseral/product.hpp"

namespace tesseral::cuda {
namespace {

constexpr int most_threads = 128;
constexpr int most_atoms = 64;  // of a block
constexpr std::size_t usual_shared_bytes = 40 * 1024;
constexpr int64_t enough_blocks = 800;  // for all multiprocessors of the largest devices

/// Atoms of a thread.
template <class T>
constexpr int together = 16 / sizeof(T);

template <class T>
struct alignas(16) Together {
  T of[together<T>];
};

/// As the operators' arguments; tree and roots on the device.
template <class T>
struct ProductArrays {
  Field<const T> A, coefficients;
  const T* G;
  T* gA;
  T* gc;
  T* out;
  const int64_t* species;
  const TreeNode* tree;
  const int32_t* roots;
  int n_harmonics, n_channels, n_nodes, n_outputs;
};

struct ProductLayout {
  Range range;
  int64_t n_chunks;  // blocks of the same channels
  int atoms, channels;
  int threads;  // that work: fewer than a warp where they take much shared memory
};

/// What a thread keeps of each component of A: values, of a dual tangents too, and unless the value alone is wanted the
/// gradient, of a dual its tangent.
template <class V, Wanted wanted>
constexpr int factor_parts = (sizeof(V) > sizeof(Element<V>) ? 2 : 1) + (wanted == Wanted::value ? 0 : 1);

/// A component as the traversal takes it (ProductFactor).
template <class V>
struct FactorOfThread {
  using T = Element<V>;
  struct Sum {
    T& sum;
    TESSERAL_INLINE void operator+=(const V& amount) const { sum += wanted_part(amount); }
  };
  struct Values {
    const T *values, *tangents;
    __device__ V operator[](int b) const { return element<V>(values, tangents, b); }
  };
  struct Sums {
    T* sums;
    TESSERAL_INLINE Sum operator[](int b) const { return {sums[b]}; }
  };
  Values A;
  Sums gradient;
};

/// The components of a thread.
template <class V, Wanted wanted>
struct FactorsOfThread {
  using T = Element<V>;
  Together<T>* own;  // the first part of the first component
  int stride;        // from part to part

  TESSERAL_INLINE Together<T>& part(int factor, int n) const { return own[(factor * factor_parts<V, wanted> + n) * stride]; }
  TESSERAL_INLINE FactorOfThread<V> operator[](int factor) const {
    constexpr int last = factor_parts<V, wanted> - 1;
    return {{part(factor, 0).of, part(factor, last > 0 ? 1 : 0).of}, {part(factor, last).of}};
  }
};

/// The coefficients of one channel; of a dual the tangents may be null for zeros.
template <class V>
struct CoefficientsOfChannel {
  const Element<V>*values, *tangents;
  __device__ V get(int64_t offset) const {
    if constexpr (sizeof(V) > sizeof(Element<V>)) {
      return {__ldg(values + offset), tangents ? __ldg(tangents + offset) : 0};
    } else {
      return __ldg(values + offset);
    }
  }
};

/// The gradient of one channel's coefficients.
template <class V>
struct SumsOfChannel {
  Element<V>* sums;
  __device__ void add(int64_t offset, const V& amount) const { atomicAdd(sums + offset, wanted_part(amount)); }
};

/// One thread's atoms; those from n_atoms on are missing.
template <class V, Wanted wanted, int depth>
struct ProductThread {
  using T = Element<V>;
  static constexpr int M = together<T>;
  const ProductArrays<T>& arrays;
  FactorsOfThread<V, wanted> factors;
  int channel;
  int n_atoms;
  int64_t atoms[M];
  int64_t coefficients[M];  // where those of each atom's species begin

  __device__ void run(bool one_species) const {
    const int64_t stride = arrays.n_channels;
    for (int lm = 0; lm < arrays.n_harmonics; ++lm) {
      Together<T> values{}, tangents{};
      TESSERAL_UNROLL for (int b = 0; b < M; ++b) {
        if (b >= n_atoms) continue;
        const int64_t at = (atoms[b] * arrays.n_harmonics + lm) * stride + channel;
        values.of[b] = arrays.A.values[at];
        if constexpr (sizeof(V) > sizeof(T)) tangents.of[b] = arrays.A.tangents[at];
      }
      if constexpr (wanted != Wanted::value) factors.part(lm, factor_parts<V, wanted> - 1) = {};
      factors.part(lm, 0) = values;
      if constexpr (sizeof(V) > sizeof(T)) factors.part(lm, 1) = tangents;
    }
    if (one_species) {
      walk<M, 1>();
    } else {
      walk<1, M>();
    }
    for (int lm = 0; wanted != Wanted::value && lm < arrays.n_harmonics; ++lm) {
      const Together<T> sums = factors.part(lm, factor_parts<V, wanted> - 1);
      TESSERAL_UNROLL for (int b = 0; b < M; ++b) {
        if (b < n_atoms) arrays.gA[(atoms[b] * arrays.n_harmonics + lm) * stride + channel] = sums.of[b];
      }
    }
  }

 private:
  /// N atoms that share the coefficients, or P that do not.
  template <int N, int P>
  __device__ void walk() const {
    const Field<const T>& all = arrays.coefficients;
    ProductTraversal<V, N, P, depth, wanted, FactorsOfThread<V, wanted>, CoefficientsOfChannel<V>, SumsOfChannel<V>>
        traversal{arrays.tree,
                  factors,
                  {all.values + channel, all.tangents ? all.tangents + channel : nullptr},
                  {arrays.gc + channel},
                  arrays.n_channels,
                  {}};
    TESSERAL_UNROLL for (int p = 0; p < P; ++p) traversal.packs[p] = coefficients[p];
    for (int o = 0; o < arrays.n_outputs; ++o) {
      V adjoint[M], value[M];
      TESSERAL_UNROLL for (int b = 0; b < M; ++b) {
        value[b] = constant<V>(0);
        adjoint[b] = constant<V>(wanted == Wanted::value ? 1 : 0);
        if (wanted != Wanted::value && b < n_atoms) adjoint[b] = lift_to<V>(arrays.G[output(b, o)]);
      }
      traversal.visit(arrays.roots[o], arrays.roots[o + 1], adjoint, value);
      if (!arrays.out) continue;
      TESSERAL_UNROLL for (int b = 0; b < M; ++b) {
        if (b < n_atoms) arrays.out[output(b, o)] = wanted_part(value[b]);
      }
    }
  }
  __device__ int64_t output(int b, int o) const { return (atoms[b] * arrays.n_outputs + o) * arrays.n_channels + channel; }
};

template <class V, Wanted wanted, int depth>
__global__ void __launch_bounds__(most_threads, 3) products(ProductArrays<Element<V>> arrays, ProductLayout layout) {
  using T = Element<V>;
  constexpr int M = together<T>;
  __shared__ AtomsBySpecies<most_atoms> sorted;
  const int64_t first = layout.range.begin + blockIdx.x % layout.n_chunks * layout.atoms, left = layout.range.end - first;
  const int count = left < layout.atoms ? static_cast<int>(left) : layout.atoms;
  sort_by_species(arrays.species, first, count, sorted);
  const int thread = static_cast<int>(threadIdx.x), n_rows = layout.threads / layout.channels;
  const int channel = static_cast<int>(blockIdx.x / layout.n_chunks) * layout.channels + thread % layout.channels;
  if (thread >= layout.threads || channel >= arrays.n_channels) return;
  const FactorsOfThread<V, wanted> factors{shared_memory<Together<T>>() + thread, layout.threads};
  for (int begin = thread / layout.channels * M; begin < count; begin += n_rows * M) {
    ProductThread<V, wanted, depth> own{arrays, factors, channel, count - begin < M ? count - begin : M, {}, {}};
    TESSERAL_UNROLL for (int b = 0; b < M; ++b) {
      const int place = begin + b < count ? begin + b : count - 1;
      own.atoms[b] = first + sorted.atom[place];
      own.coefficients[b] = static_cast<int64_t>(sorted.species[place]) * arrays.n_nodes * arrays.n_channels;
    }
    own.run(own.coefficients[0] == own.coefficients[M - 1]);
  }
}

template <class V, Wanted wanted>
void run(const ProductShape& shape, ProductArrays<Element<V>> arrays, Range range) {
  constexpr int M = together<Element<V>>;
  const int64_t n = range.end - range.begin;
  if (n == 0 || shape.n_channels == 0) return;
  arrays.species = shape.species;
  arrays.tree = on_device(shape.tree, static_cast<std::size_t>(shape.n_nodes));
  arrays.roots = on_device(shape.roots, static_cast<std::size_t>(shape.n_outputs) + 1);
  arrays.n_harmonics = shape.n_harmonics;
  arrays.n_channels = shape.n_channels;
  arrays.n_nodes = shape.n_nodes;
  arrays.n_outputs = shape.n_outputs;
  const std::size_t bytes = static_cast<std::size_t>(shape.n_harmonics) * factor_parts<V, wanted> * 16;  // of a thread
  int threads = most_threads;
  while (threads > warp_size && threads * bytes > usual_shared_bytes) threads /= 2;
  while (threads * bytes > most_shared_bytes) threads /= 2;
  const int channels = std::min(threads, shape.n_channels > 16 ? 32 : shape.n_channels > 8 ? 16 : 8);
  const int64_t channel_blocks = blocks_for(shape.n_channels, channels), at_once = threads / channels * M;
  const int64_t wanted_atoms = std::max(at_once, std::min<int64_t>(most_atoms, n * channel_blocks / enough_blocks));
  const int64_t atoms = std::min<int64_t>(most_atoms, blocks_for(wanted_atoms, at_once) * at_once);
  const ProductLayout layout{range, blocks_for(n, atoms), static_cast<int>(atoms), channels, threads};
  launch(shape.depth <= usual_depth ? products<V, wanted, usual_depth> : products<V, wanted, max_order>,
         layout.n_chunks * channel_blocks, std::max(threads, warp_size), threads * bytes, arrays, layout);
}

template <class T>
void product(const ProductShape& shape, const T* A, const T* coefficients, Range range, T* out) {
  ProductArrays<T> arrays{};
  arrays.A.values = A;
  arrays.coefficients.values = coefficients;
  arrays.out = out;
  run<T, Wanted::value>(shape, arrays, range);
}

template <class V>
void run_gradient(const ProductShape& shape, const ProductArrays<Element<V>>& arrays, Range range) {
  if (arrays.gc) return run<V, Wanted::gradient_and_coefficients>(shape, arrays, range);
  run<V, Wanted::gradient>(shape, arrays, range);
}

template <class T>
void product_gradient(const ProductShape& shape, Field<const T> A, Field<const T> coefficients, const T* G, Range range,
                      T* gA, T* gc) {
  ProductArrays<T> arrays{};
  arrays.A = A;
  arrays.coefficients.values = coefficients.values;
  arrays.G = G;
  arrays.gA = gA;
  arrays.gc = gc;
  run_gradient<T>(shape, arrays, range);
}

template <class T>
void product_gradient_tangent(const ProductShape& shape, Field<const T> A, Field<const T> coefficients, const T* G,
                              Range range, T* gA, T* gc, T* out) {
  ProductArrays<T> arrays{};
  arrays.A = A;
  arrays.coefficients = coefficients;
  arrays.G = G;
  arrays.gA = gA;
  arrays.gc = gc;
  arrays.out = out;
  run_gradient<Dual<T>>(shape, arrays, range);
}

}  // namespace

template <class T>
void add_product(Kernels<T>& kernels) {
  kernels.product = product<T>;
  kernels.product_gradient = product_gradient<T>;
  kernels.product_gradient_tangent = product_gradient_tangent<T>;
}
TESSERAL_INSTANTIATE(add_product)

}  // namespace tesseral::cuda
