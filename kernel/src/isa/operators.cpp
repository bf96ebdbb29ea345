// The operators of one instruction set: loops over atoms around the per-edge and per-atom functions. Compiled once per
// instruction set with TESSERAL_ISA and TESSERAL_VECTOR_BYTES defined by the build.
#include "tesseral/density.hpp"
#include "tesseral/mix.hpp"
#include "tesseral/product.hpp"
#include "tesseral/repulsion.hpp"

namespace tesseral::TESSERAL_ISA {

// message_operators.cpp
template <class T>
void message(const MessageShape<T>&, const MessageInputs<T>&, Range, T* out);
template <class T>
void message_gradient(const MessageShape<T>&, const MessageInputs<T>&, const T* G, Range, const MessageOutputs<T>&);

// row_maps.cpp
template <class T>
void map_rows(const RowMapShape&, const T* x, const T* weights, Range, T* out);
template <class T>
void map_rows_weight_gradient(const RowMapShape&, const T* x, const T* G, Range, T* out);

namespace {

/// Zeroed scratch array of whole packs.
template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t size) : data_(new T[static_cast<std::size_t>(size > 0 ? size : 1)]()) {}
  ~Scratch() { delete[] data_; }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  operator T*() const { return data_; }

 private:
  T* data_;
};

template <class T>
void copy_rows(const T* source, int64_t n_rows, int length, int source_stride, T* target, int target_stride) {
  for (int64_t row = 0; row < n_rows; ++row) {
    for (int k = 0; k < length; ++k) target[row * target_stride + k] = source[row * source_stride + k];
  }
}

/// Rows become columns of the target [length, target_stride].
template <class T>
void transpose_rows(const T* source, int64_t n_rows, int length, int source_stride, T* target, int target_stride) {
  for (int64_t row = 0; row < n_rows; ++row) {
    for (int k = 0; k < length; ++k) target[k * target_stride + row] = source[row * source_stride + k];
  }
}

template <class T>
void add_rows(const T* source, int64_t n_rows, int length, int source_stride, T* target, int target_stride) {
  for (int64_t row = 0; row < n_rows; ++row) {
    for (int k = 0; k < length; ++k) target[row * target_stride + k] += source[row * source_stride + k];
  }
}

template <class T>
void fill_zero(T* target, int64_t size) {
  for (int64_t k = 0; k < size; ++k) target[k] = T(0);
}

int harmonics_of(int l_max) {
  return (l_max + 1) * (l_max + 1);
}

/// Runs visit(lanes, direction) for packs of edges, with a dual direction where there are tangents.
template <class T, class V, class Visit>
void over_edges(const T* vectors, const T* tangents, Range range, Visit visit) {
  for_each_pack<T>(range.begin, range.end,
                   [&](const Lanes<T>& pack) { visit(pack, direction_of(vectors, tangents, T(1), pack, V{})); });
}

template <class T, class V>
void harmonics_of_edges(const HarmonicConstants<T>& table, const T* vectors, const T* tangents, Range range, T* out) {
  const int n = harmonics_of(table.l_max);
  over_edges<T, V>(vectors, tangents, range, [&](const Lanes<T>& pack, const Direction<V>& direction) {
    V Y[max_harmonics];
    Harmonics<V>(table, direction.x, direction.y, direction.z).values(Y);
    for (int lane = 0; lane < pack.count; ++lane) {
      for (int lm = 0; lm < n; ++lm) {
        if constexpr (sizeof(V) > sizeof(Pack<T>)) {
          out[pack.edge[lane] * n + lm] = Y[lm].tangent[lane];
        } else {
          out[pack.edge[lane] * n + lm] = Y[lm][lane];
        }
      }
    }
  });
}

template <class T>
void harmonics(const HarmonicConstants<T>& table, const T* vectors, const T* tangents, Range range, T* out) {
  if (tangents) return harmonics_of_edges<T, Dual<Pack<T>>>(table, vectors, tangents, range, out);
  harmonics_of_edges<T, Pack<T>>(table, vectors, tangents, range, out);
}

template <class T, class V>
void harmonics_gradient_of_edges(const HarmonicConstants<T>& table, const T* vectors, const T* tangents, const T* G,
                                 Range range, T* out) {
  const int n = harmonics_of(table.l_max);
  over_edges<T, V>(vectors, tangents, range, [&](const Lanes<T>& pack, const Direction<V>& direction) {
    V t[max_harmonics];
    for (int lm = 0; lm < n; ++lm) {
      Pack<T> row = {};
      for (int lane = 0; lane < pack.count; ++lane) row[lane] = G[pack.edge[lane] * n + lm];
      t[lm] = lift_to<V>(row);
    }
    V g[3];
    Harmonics<V>(table, direction.x, direction.y, direction.z).contract_gradient(t, g[0], g[1], g[2]);
    direction.project(g[0], g[1], g[2], constant<V>(0));
    for (int lane = 0; lane < pack.count; ++lane) {
      for (int axis = 0; axis < 3; ++axis) {
        if constexpr (sizeof(V) > sizeof(Pack<T>)) {
          out[3 * pack.edge[lane] + axis] = g[axis].tangent[lane];
        } else {
          out[3 * pack.edge[lane] + axis] = g[axis][lane];
        }
      }
    }
  });
}

template <class T>
void harmonics_gradient(const HarmonicConstants<T>& table, const T* vectors, const T* tangents, const T* G, Range range,
                        T* out) {
  if (tangents) return harmonics_gradient_of_edges<T, Dual<Pack<T>>>(table, vectors, tangents, G, range, out);
  harmonics_gradient_of_edges<T, Pack<T>>(table, vectors, tangents, G, range, out);
}

template <class T>
void radial(const RadialBasis<T>& basis, const T* distances, const int64_t* tables, Range range, T* value, T* first,
            T* second) {
  using V = Dual<Pack<T>>;
  for_each_pack<T>(range.begin, range.end, [&](const Lanes<T>& pack) {
    V r{broadcast<T>(basis.cutoff), broadcast<T>(1)}, R[max_radial], dR[max_radial];
    for (int lane = 0; lane < pack.count; ++lane) r.value[lane] = distances[pack.edge[lane]];
    radial_functions(basis, r, TablesOfPack<T>(tables, pack), R, dR);
    for (int lane = 0; lane < pack.count; ++lane) {
      for (int q = 0; q < basis.n_radial; ++q) {
        const int64_t at = pack.edge[lane] * basis.n_radial + q;
        value[at] = R[q].value[lane];
        first[at] = dR[q].value[lane];
        second[at] = dR[q].tangent[lane];
      }
    }
  });
}

template <class T>
void repulsion_of_pairs(const Repulsion& options, const T* distances, const T* strength, const T* inverse_screening,
                        Range range, T* value, T* first, T* second) {
  using V = Dual<Pack<T>>;
  for_each_pack<T>(range.begin, range.end, [&](const Lanes<T>& pack) {
    V r{broadcast<T>(T(options.outer)), broadcast<T>(1)}, k = constant<V>(0), inverse = constant<V>(1), energy, slope;
    for (int lane = 0; lane < pack.count; ++lane) {
      r.value[lane] = distances[pack.edge[lane]];
      k.value[lane] = strength[pack.edge[lane]];
      inverse.value[lane] = inverse_screening[pack.edge[lane]];
    }
    repulsion(r, k, inverse, constant<V>(T(options.outer)), options, energy, slope);
    for (int lane = 0; lane < pack.count; ++lane) {
      value[pack.edge[lane]] = energy.value[lane];
      first[pack.edge[lane]] = slope.value[lane];
      second[pack.edge[lane]] = slope.tangent[lane];
    }
  });
}

template <class T>
void density(const DensityOptions<T>& options, const Edges<T>& edges, Range atoms, T* out) {
  const int n_harmonics = harmonics_of(options.harmonics.l_max), stride = padded<T>(n_harmonics);
  const int n_inputs = options.n_species * options.radial.n_radial;
  const Scratch<T> phi(static_cast<int64_t>(n_inputs) * stride);
  for (int64_t i = atoms.begin; i < atoms.end; ++i) {
    fill_zero<T>(phi, static_cast<int64_t>(n_inputs) * stride);
    if (edges.tangents) {
      add_density<T, Dual<Pack<T>>>(options, edges, edges.first[i], edges.first[i + 1], phi);
    } else {
      add_density<T, Pack<T>>(options, edges, edges.first[i], edges.first[i + 1], phi);
    }
    copy_rows<T>(phi, n_inputs, n_harmonics, stride, out + i * n_inputs * n_harmonics, n_harmonics);
  }
}

template <class T>
void density_gradient_of_atoms(const DensityOptions<T>& options, const Edges<T>& edges, const T* G, Range atoms, T* out) {
  const int n_harmonics = harmonics_of(options.harmonics.l_max);
  const int n_inputs = options.n_species * options.radial.n_radial;
  const Scratch<T> dphi(static_cast<int64_t>(n_inputs) * n_harmonics);
  for (int64_t i = atoms.begin; i < atoms.end; ++i) {
    transpose_rows<T>(G + i * n_inputs * n_harmonics, n_inputs, n_harmonics, n_harmonics, dphi, n_inputs);
    if (edges.tangents) {
      density_gradient<T, Dual<Pack<T>>>(options, edges, edges.first[i], edges.first[i + 1], dphi, n_inputs, out);
    } else {
      density_gradient<T, Pack<T>>(options, edges, edges.first[i], edges.first[i + 1], dphi, n_inputs, out);
    }
  }
}

/// Sizes and padded scratch shared by the three mixing loops.
template <class T>
struct MixWorkspace {
  MixSizes sizes;
  int n_harmonics, n_channels;
  Scratch<T> phi, A;

  explicit MixWorkspace(const MixShape<T>& shape)
      : sizes{shape.l_max, shape.n_inputs, padded<T>(shape.n_inputs), padded<T>(harmonics_of(shape.l_max)),
              padded<T>(shape.n_channels)},
        n_harmonics(harmonics_of(shape.l_max)),
        n_channels(shape.n_channels),
        phi(static_cast<int64_t>(shape.n_inputs) * sizes.harmonic_stride),
        A(static_cast<int64_t>(n_harmonics) * sizes.channel_stride) {}

  int64_t rows_per_species() const { return static_cast<int64_t>(sizes.l_max + 1) * sizes.n_inputs; }
  int64_t n_features() const { return static_cast<int64_t>(sizes.n_inputs) * n_harmonics; }
  void take_features(const T* features, int64_t atom) const {
    copy_rows<T>(features + atom * n_features(), sizes.n_inputs, n_harmonics, n_harmonics, phi, sizes.harmonic_stride);
  }
  void take_channels(const T* A_all, int64_t atom) const {
    copy_rows<T>(A_all + atom * n_harmonics * n_channels, n_harmonics, n_channels, n_channels, A, sizes.channel_stride);
  }
};

/// Number of species that a range of atoms can refer to.
int64_t species_count(const int64_t* species, Range range) {
  int64_t count = 0;
  for (int64_t i = range.begin; i < range.end; ++i) count = species[i] + 1 > count ? species[i] + 1 : count;
  return count;
}

template <class T>
void mix(const MixShape<T>& shape, const T* features, const T* weights, Range range, T* out) {
  const MixWorkspace<T> work(shape);
  const int64_t rows = work.rows_per_species(), count = species_count(shape.species, range);
  const int stride = work.sizes.channel_stride;
  const Scratch<T> W(count * rows * stride);
  copy_rows<T>(weights, count * rows, shape.n_channels, shape.n_channels, W, stride);
  for (int64_t i = range.begin; i < range.end; ++i) {
    work.take_features(features, i);
    mix_atoms<T>(work.sizes, 1, work.phi, W + shape.species[i] * rows * stride, work.A);
    copy_rows<T>(work.A, work.n_harmonics, shape.n_channels, stride, out + i * work.n_harmonics * shape.n_channels,
                 shape.n_channels);
  }
}

template <class T>
void mix_input_gradient_of_atoms(const MixShape<T>& shape, const T* G, const T* weights, Range range, T* out) {
  const MixWorkspace<T> work(shape);
  const MixSizes& sizes = work.sizes;
  const int64_t per_l = static_cast<int64_t>(sizes.channel_stride) * sizes.input_stride;
  const int64_t count = species_count(shape.species, range) * (shape.l_max + 1);
  const Scratch<T> transposed(count * per_l), dphi(static_cast<int64_t>(work.n_harmonics) * sizes.input_stride);
  for (int64_t block = 0; block < count; ++block) {
    for (int c = 0; c < shape.n_inputs; ++c) {
      const T* row = weights + (block * shape.n_inputs + c) * shape.n_channels;
      for (int k = 0; k < shape.n_channels; ++k) transposed[block * per_l + k * sizes.input_stride + c] = row[k];
    }
  }
  for (int64_t i = range.begin; i < range.end; ++i) {
    work.take_channels(G, i);
    mix_input_gradient<T>(sizes, 1, work.A, transposed + shape.species[i] * (shape.l_max + 1) * per_l, dphi);
    transpose_rows<T>(dphi, work.n_harmonics, shape.n_inputs, sizes.input_stride, out + i * work.n_features(),
                      work.n_harmonics);
  }
}

template <class T>
void mix_weight_gradient(const MixShape<T>& shape, const T* features, const T* G, Range range, T* out) {
  const MixWorkspace<T> work(shape);
  const int64_t rows = work.rows_per_species(), count = species_count(shape.species, range);
  const int stride = work.sizes.channel_stride;
  const Scratch<T> gradient(count * rows * stride);
  for (int64_t i = range.begin; i < range.end; ++i) {
    work.take_features(features, i);
    work.take_channels(G, i);
    add_mix_weight_gradient<T>(work.sizes, work.phi, work.A, gradient + shape.species[i] * rows * stride);
  }
  add_rows<T>(gradient, count * rows, shape.n_channels, stride, out, shape.n_channels);
}

/// Padded copies for the product loops.
template <class T>
struct ProductWorkspace {
  const ProductShape& shape;
  int row;
  int64_t n_species;
  Scratch<T> A, A_tangent, gradient, cotangent, out, coefficients;

  ProductWorkspace(const ProductShape& s, const T* all_coefficients, Range range)
      : shape(s),
        row(padded<T>(s.n_channels)),
        n_species(species_count(s.species, range)),
        A(row * s.n_harmonics),
        A_tangent(row * s.n_harmonics),
        gradient(row * s.n_harmonics),
        cotangent(row * s.n_outputs),
        out(row * s.n_outputs),
        coefficients(n_species * s.n_nodes * row) {
    copy_rows<T>(all_coefficients, n_species * s.n_nodes, s.n_channels, s.n_channels, coefficients, row);
  }
  int64_t coefficients_of(int64_t atom) const { return shape.species[atom] * shape.n_nodes * row; }
  void take(const T* source, int64_t atom, int n_rows, T* target) const {
    copy_rows<T>(source + atom * n_rows * shape.n_channels, n_rows, shape.n_channels, shape.n_channels, target, row);
  }
  void give(const T* source, int64_t atom, int n_rows, T* target) const {
    copy_rows<T>(source, n_rows, shape.n_channels, row, target + atom * n_rows * shape.n_channels, shape.n_channels);
  }
};

template <class T>
void product(const ProductShape& shape, const T* A, const T* coefficients, Range range, T* out) {
  using V = Pack<T>;
  const ProductWorkspace<T> work(shape, coefficients, range);
  for (int64_t i = range.begin; i < range.end; ++i) {
    work.take(A, i, shape.n_harmonics, work.A);
    fill_zero<T>(work.out, work.row * shape.n_outputs);
    ProductAtom<V, Wanted::value>{shape, work.row, {work.A, nullptr}, {work.coefficients + work.coefficients_of(i), nullptr},
                                  {},    {},       nullptr,           {work.out, nullptr}}
        .run();
    work.give(work.out, i, shape.n_outputs, out);
  }
}

/// Runs the atoms of a range through the traversal that fits what is wanted.
template <class T, class V, Wanted wanted>
void product_gradient_of_atoms(const ProductWorkspace<T>& work, Field<const T> A, const T* coefficient_tangents, const T* G,
                               Range range, T* gA, T* gc, T* out) {
  constexpr bool dual = sizeof(V) > sizeof(Pack<T>);
  const ProductShape& shape = work.shape;
  for (int64_t i = range.begin; i < range.end; ++i) {
    const int64_t own = work.coefficients_of(i);
    work.take(A.values, i, shape.n_harmonics, work.A);
    if (dual) work.take(A.tangents, i, shape.n_harmonics, work.A_tangent);
    work.take(G, i, shape.n_outputs, work.cotangent);
    fill_zero<T>(work.gradient, work.row * shape.n_harmonics);
    if (dual) fill_zero<T>(work.out, work.row * shape.n_outputs);
    T* tangents = coefficient_tangents ? const_cast<T*>(coefficient_tangents) + own : nullptr;
    T* own_gc = gc ? gc + own : nullptr;
    ProductAtom<V, wanted>{shape,
                           work.row,
                           {work.A, work.A_tangent},
                           {work.coefficients + own, tangents},
                           {work.gradient, work.gradient},
                           {own_gc, own_gc},
                           work.cotangent,
                           {nullptr, dual ? static_cast<T*>(work.out) : nullptr}}
        .run();
    work.give(work.gradient, i, shape.n_harmonics, gA);
    if (out) work.give(work.out, i, shape.n_outputs, out);
  }
}

template <class T, class V>
void product_gradient_any(const ProductShape& shape, Field<const T> A, Field<const T> coefficients, const T* G, Range range,
                          T* gA, T* gc, T* out) {
  const ProductWorkspace<T> work(shape, coefficients.values, range);
  const int64_t n_rows = work.n_species * shape.n_nodes;
  const Scratch<T> tangents(coefficients.tangents ? n_rows * work.row : 0);
  if (coefficients.tangents) {
    copy_rows<T>(coefficients.tangents, n_rows, shape.n_channels, shape.n_channels, tangents, work.row);
  }
  const T* own_tangents = coefficients.tangents ? static_cast<T*>(tangents) : nullptr;
  if (!gc) return product_gradient_of_atoms<T, V, Wanted::gradient>(work, A, own_tangents, G, range, gA, nullptr, out);
  const Scratch<T> gradient(n_rows * work.row);
  product_gradient_of_atoms<T, V, Wanted::gradient_and_coefficients>(work, A, own_tangents, G, range, gA, gradient, out);
  add_rows<T>(gradient, n_rows, shape.n_channels, work.row, gc, shape.n_channels);
}

template <class T>
void product_gradient(const ProductShape& shape, Field<const T> A, Field<const T> coefficients, const T* G, Range range,
                      T* gA, T* gc) {
  product_gradient_any<T, Pack<T>>(shape, A, {coefficients.values, nullptr}, G, range, gA, gc, nullptr);
}

template <class T>
void product_gradient_tangent(const ProductShape& shape, Field<const T> A, Field<const T> coefficients, const T* G,
                              Range range, T* gA, T* gc, T* out) {
  product_gradient_any<T, Dual<Pack<T>>>(shape, A, coefficients, G, range, gA, gc, out);
}

template <class T>
const Kernels<T> table = {
    TESSERAL_ISA_NAME,
    harmonics<T>,
    harmonics_gradient<T>,
    radial<T>,
    repulsion_of_pairs<T>,
    density<T>,
    density_gradient_of_atoms<T>,
    mix<T>,
    mix_input_gradient_of_atoms<T>,
    mix_weight_gradient<T>,
    map_rows<T>,
    map_rows_weight_gradient<T>,
    product<T>,
    product_gradient<T>,
    product_gradient_tangent<T>,
    message<T>,
    message_gradient<T>,
};

}  // namespace

const Kernels<float>& kernels_float() {
  return table<float>;
}
const Kernels<double>& kernels_double() {
  return table<double>;
}

}  // namespace tesseral::TESSERAL_ISA
