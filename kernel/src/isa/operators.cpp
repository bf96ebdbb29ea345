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

// peak.cpp
template <class T>
double multiply_adds_per_second();

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
        if (second) second[at] = dR[q].tangent[lane];
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
      : sizes{shape.l_max, shape.n_inputs, padded<T>(harmonics_of(shape.l_max)), padded<T>(shape.n_channels)},
        n_harmonics(harmonics_of(shape.l_max)),
        n_channels(shape.n_channels),
        phi(static_cast<int64_t>(shape.n_inputs) * sizes.harmonic_stride),
        A(static_cast<int64_t>(n_harmonics) * sizes.channel_stride) {}

  int64_t rows_per_species() const { return static_cast<int64_t>(sizes.l_max + 1) * sizes.n_inputs; }
  int64_t n_features() const { return static_cast<int64_t>(sizes.n_inputs) * n_harmonics; }
  void take_features(const T* features, int64_t atom) const {
    copy_rows<T>(features + atom * n_features(), sizes.n_inputs, n_harmonics, n_harmonics, phi, sizes.harmonic_stride);
  }
  bool copied() const { return sizes.channel_stride != n_channels; }
  /// The atom's rows of channels, a padded copy unless they are whole packs.
  const T* channels(const T* A_all, int64_t atom) const {
    const T* own = A_all + atom * n_harmonics * n_channels;
    if (!copied()) return own;
    copy_rows<T>(own, n_harmonics, n_channels, n_channels, A, sizes.channel_stride);
    return A;
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
    T* own = out + i * work.n_harmonics * shape.n_channels;
    work.take_features(features, i);
    mix_atoms<T>(work.sizes, 1, work.phi, W + shape.species[i] * rows * stride, work.copied() ? work.A : own);
    if (work.copied()) copy_rows<T>(work.A, work.n_harmonics, shape.n_channels, stride, own, shape.n_channels);
  }
}

template <class T>
void mix_input_gradient_of_atoms(const MixShape<T>& shape, const T* G, const T* weights, Range range, T* out) {
  const MixWorkspace<T> work(shape);
  const int64_t rows = work.rows_per_species(), count = species_count(shape.species, range);
  const int stride = work.sizes.channel_stride;
  const Scratch<T> W(work.copied() ? count * rows * stride : 0);
  if (work.copied()) copy_rows<T>(weights, count * rows, shape.n_channels, shape.n_channels, W, stride);
  const T* all = work.copied() ? static_cast<const T*>(W) : weights;
  for (int64_t i = range.begin; i < range.end; ++i) {
    mix_input_gradient<T>(work.sizes, work.channels(G, i), all + shape.species[i] * rows * stride, 0, shape.n_inputs,
                          work.phi);
    copy_rows<T>(work.phi, shape.n_inputs, work.n_harmonics, work.sizes.harmonic_stride, out + i * work.n_features(),
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
    add_mix_weight_gradient<T>(work.sizes, work.phi, work.channels(G, i), gradient + shape.species[i] * rows * stride);
  }
  add_rows<T>(gradient, count * rows, shape.n_channels, stride, out, shape.n_channels);
}

/// Rows of channels for the product loops: the caller's own where they are whole packs, otherwise padded copies.
template <class T>
struct ProductRows {
  const ProductShape& shape;
  int row;
  bool copied;

  explicit ProductRows(const ProductShape& s) : shape(s), row(padded<T>(s.n_channels)), copied(row != s.n_channels) {}

  int64_t scratch(int64_t n_rows) const { return copied ? n_rows * row : 0; }
  /// The rows of `source` from number `first` on.
  T* taken(const T* source, int64_t first, int64_t n_rows, T* copy) const {
    const T* own = source + first * shape.n_channels;
    if (!copied) return const_cast<T*>(own);  // streams of what is only read have the type of those that are written
    copy_rows<T>(own, n_rows, shape.n_channels, shape.n_channels, copy, row);
    return copy;
  }
  /// Where to write the rows of `target` from number `first` on.
  T* opened(T* target, int64_t first, T* copy) const { return copied ? copy : target + first * row; }
  void closed(T* target, int64_t first, int64_t n_rows, const T* copy) const {
    if (copied) copy_rows<T>(copy, n_rows, shape.n_channels, row, target + first * shape.n_channels, shape.n_channels);
  }
};

template <class T>
void product(const ProductShape& shape, const T* A, const T* coefficients, Range range, T* out) {
  const ProductRows<T> rows(shape);
  const int64_t n_coefficients = species_count(shape.species, range) * shape.n_nodes;
  const int n_A = shape.n_harmonics, n_out = shape.n_outputs;
  const Scratch<T> A_copy(rows.scratch(n_A)), out_copy(rows.scratch(n_out)), c_copy(rows.scratch(n_coefficients));
  T* c = rows.taken(coefficients, 0, n_coefficients, c_copy);
  for (int64_t i = range.begin; i < range.end; ++i) {
    T* sums = rows.opened(out, i * n_out, out_copy);
    T* own = c + shape.species[i] * shape.n_nodes * rows.row;
    ProductAtoms<Pack<T>, Wanted::value>{
        shape,          rows.row, rows.row, coefficient_block, {rows.taken(A, i * n_A, n_A, A_copy), nullptr},
        {own, nullptr}, {},       {},       nullptr,           {sums, nullptr}}
        .run(1);
    rows.closed(out, i * n_out, n_out, sums);
  }
}

/// Runs the atoms of a range through the traversal that fits what is wanted; c and gc have padded rows.
template <class T, class V, Wanted wanted>
void product_gradient_of_atoms(const ProductRows<T>& rows, Field<const T> A, Field<T> c, const T* G, Range range, T* gA,
                               T* gc, T* out) {
  constexpr bool dual = sizeof(V) > sizeof(Pack<T>);
  const ProductShape& shape = rows.shape;
  const int n_A = shape.n_harmonics, n_out = shape.n_outputs;
  const Scratch<T> A_copy(rows.scratch(n_A)), tangent_copy(rows.scratch(n_A)), gA_copy(rows.scratch(n_A));
  const Scratch<T> G_copy(rows.scratch(n_out)), out_copy(rows.scratch(n_out));
  for (int64_t i = range.begin; i < range.end; ++i) {
    const int64_t own = shape.species[i] * shape.n_nodes * rows.row, first = i * n_A;
    T* tangents = dual ? rows.taken(A.tangents, first, n_A, tangent_copy) : nullptr;
    T* own_gc = gc ? gc + own : nullptr;
    T* by_A = rows.opened(gA, first, gA_copy);
    T* of_out = dual ? rows.opened(out, i * n_out, out_copy) : nullptr;
    ProductAtoms<V, wanted>{shape,
                            rows.row,
                            rows.row,
                            coefficient_block,
                            {rows.taken(A.values, first, n_A, A_copy), tangents},
                            {c.values + own, c.tangents ? c.tangents + own : nullptr},
                            {by_A, by_A},
                            {own_gc, own_gc},
                            rows.taken(G, i * n_out, n_out, G_copy),
                            {nullptr, of_out}}
        .run(1);
    rows.closed(gA, first, n_A, by_A);
    if (dual) rows.closed(out, i * n_out, n_out, of_out);
  }
}

template <class T, class V>
void product_gradient_any(const ProductShape& shape, Field<const T> A, Field<const T> coefficients, const T* G, Range range,
                          T* gA, T* gc, T* out) {
  const ProductRows<T> rows(shape);
  const int64_t n_rows = species_count(shape.species, range) * shape.n_nodes;
  const bool with_tangents = coefficients.tangents != nullptr;
  const Scratch<T> copy(rows.scratch(n_rows)), tangent_copy(with_tangents ? rows.scratch(n_rows) : 0);
  const Field<T> c{rows.taken(coefficients.values, 0, n_rows, copy),
                   with_tangents ? rows.taken(coefficients.tangents, 0, n_rows, tangent_copy) : nullptr};
  if (!gc) return product_gradient_of_atoms<T, V, Wanted::gradient>(rows, A, c, G, range, gA, nullptr, out);
  const Scratch<T> gc_copy(rows.scratch(n_rows));
  T* sums = rows.copied ? static_cast<T*>(gc_copy) : gc;
  product_gradient_of_atoms<T, V, Wanted::gradient_and_coefficients>(rows, A, c, G, range, gA, sums, out);
  if (rows.copied) add_rows<T>(sums, n_rows, shape.n_channels, rows.row, gc, shape.n_channels);
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
    multiply_adds_per_second<T>,
};

}  // namespace

const Kernels<float>& kernels_float() {
  return table<float>;
}
const Kernels<double>& kernels_double() {
  return table<double>;
}

}  // namespace tesseral::TESSERAL_ISA
