// The native engine's loop over atoms for one instruction set: density, mixing, product, readout and their adjoints, all in
// the cache of one atom.
#include "tesseral/engine_atoms.hpp"

#include <algorithm>
#include <limits>

#include "tesseral/density.hpp"
#include "tesseral/mix.hpp"
#include "tesseral/product.hpp"
#include "tesseral/repulsion.hpp"

namespace tesseral::TESSERAL_ISA {
namespace {

template <class T>
T sum_lanes(const Pack<T>& pack) {
  T sum = 0;
  for (int lane = 0; lane < lanes<T>; ++lane) sum += pack[lane];
  return sum;
}

template <class T>
void fill_zero(T* target, int size) {
  for (int block = 0; block < size; block += lanes<T>) store(target + block, Pack<T>{});
}

/// out[:] = sum_k x[k] rows[k, :] (+ bias); rows [n, row]
template <class T>
void multiply_rows(const T* x, int n, const T* rows, int row, const T* bias, T* out) {
  for (int block = 0; block < row; block += lanes<T>) {
    Pack<T> partial[4] = {};
    int k = 0;
    for (; k + 4 <= n; k += 4) {
      for (int u = 0; u < 4; ++u) partial[u] += x[k + u] * load(rows + (k + u) * row + block);
    }
    for (; k < n; ++k) partial[0] += x[k] * load(rows + k * row + block);
    Pack<T> sum = (partial[0] + partial[1]) + (partial[2] + partial[3]);
    if (bias) sum += load(bias + block);
    store(out + block, sum);
  }
}

/// SiLU x/(1+exp(-x)) in place, and its slope.
template <class T>
void silu(T* x, T* slope, int row) {
  for (int block = 0; block < row; block += lanes<T>) {
    const Pack<T> value = load(x + block);
    const Pack<T> gate = T(1) / (T(1) + exponential(-value));
    store(x + block, value * gate);
    store(slope + block, gate * (T(1) + value * (T(1) - gate)));
  }
}

template <class T, class Sum>
class AtomLoop {
 public:
  AtomLoop(const EngineParameters<T>& parameters, const EngineInput& input, EngineScratch<T>& scratch,
           const EngineSums<Sum>& sums)
      : p_(parameters),
        input_(input),
        work_(scratch),
        sums_(sums),
        harmonic_row_(padded<T>((p_.l_max + 1) * (p_.l_max + 1))),
        sizes_{p_.l_max, p_.n_inputs, p_.input_row, harmonic_row_, p_.channel_row} {}

  void run(Range atoms) {
    for (int64_t i = atoms.begin; i < atoms.end; ++i) input_.species[i] == EngineInput::absent ? skip(i) : atom(i);
  }

 private:
  const EngineParameters<T>& p_;
  const EngineInput& input_;
  EngineScratch<T>& work_;
  const EngineSums<Sum>& sums_;
  int harmonic_row_;
  MixSizes sizes_;
  bool on_top_ = false;  // the present atom has a neighbour closer than shortest_distance

  void skip(int64_t i) {
    sums_.energies[i] = 0;
    if (sums_.virials) std::fill_n(sums_.virials + 9 * i, 9, 0.0);
    for_each_column([&](int, double* column) { column[i] = 0; });
  }

  /// f(channel, column) for every column that is asked for
  template <class F>
  void for_each_column(const F& f) {
    if (!sums_.columns) return;
    for (int channel = 0; channel < p_.n_channels; ++channel) {
      if (sums_.columns[channel]) f(channel, sums_.columns[channel]);
    }
  }

  void atom(int64_t i) {
    const int64_t z = input_.species[i];
    const int n_harmonics = (p_.l_max + 1) * (p_.l_max + 1), row = p_.channel_row;
    const int64_t mixing = z * (p_.l_max + 1) * p_.n_inputs * row;
    const int64_t transposed = z * (p_.l_max + 1) * static_cast<int64_t>(row) * p_.input_row;
    const int64_t first[2] = {0, take_edges(i)};
    const Edges<T> edges{work_.vectors.data(), nullptr, first, work_.species.data()};

    fill_zero(work_.phi.data(), p_.n_inputs * harmonic_row_);
    add_density<T, Pack<T>>(p_.density, edges, 0, first[1], work_.phi.data());
    mix_atom(sizes_, work_.phi.data(), p_.mixing.data() + mixing, work_.A.data());

    fill_zero(work_.dA.data(), n_harmonics * row);
    fill_zero(work_.B.data(), row);
    const ProductShape shape{n_harmonics, p_.n_channels, p_.n_nodes, 1, p_.tree.data(), p_.roots.data(), nullptr};
    ProductAtom<Pack<T>, Wanted::gradient>{shape,
                                           row,
                                           {work_.A.data(), nullptr},
                                           {const_cast<T*>(p_.product.data()) + z * p_.n_nodes * row, nullptr},
                                           {work_.dA.data(), nullptr},
                                           {},
                                           nullptr,
                                           {work_.B.data(), nullptr}}
        .run();

    for_each_column(
        [&](int channel, double* column) { column[i] = static_cast<double>(work_.B[static_cast<std::size_t>(channel)]); });
    const T energy = readout();
    for (int block = 0; block < row; block += lanes<T>) {
      const Pack<T> weight = p_.scale * load(work_.dB.data() + block);
      for (int lm = 0; lm < n_harmonics; ++lm) {
        T* target = work_.dA.data() + lm * row + block;
        store(target, load(target) * weight);
      }
    }
    mix_input_gradient_atom(sizes_, work_.dA.data(), p_.mixing_transposed.data() + transposed, work_.dphi.data());
    density_gradient<T, Pack<T>>(p_.density, edges, 0, first[1], work_.dphi.data(), work_.gradients.data());

    double total = p_.atomic_energy[static_cast<std::size_t>(z)] + static_cast<double>(p_.scale * energy);
    if (p_.has_repulsion) total += add_repulsion(z, first[1]);
    sums_.energies[i] = on_top_ ? std::numeric_limits<double>::quiet_NaN() : total;
    add_forces(i, first[1]);
  }

  /// Collects the edges of atom i within the cutoff; returns their number.
  int64_t take_edges(int64_t i) {
    const double cutoff = p_.density.radial.cutoff, cutoff2 = cutoff * cutoff;
    const double* ri = input_.positions + 3 * i;
    const NeighborRow& neighbors = input_.rows[i];
    int64_t count = 0;
    double least2 = cutoff2;
    for (int32_t e = 0; e < neighbors.count; ++e) {
      const int32_t j = neighbors.first_atom + (neighbors.neighbors[e] & input_.index_bits);
      const double* rj = input_.positions + 3 * static_cast<int64_t>(j);
      double d[3] = {rj[0] - ri[0], rj[1] - ri[1], rj[2] - ri[2]};
      if (neighbors.shifts) {
        for (int axis = 0; axis < 3; ++axis) d[axis] += neighbors.shifts[3 * e + axis];
      }
      const auto n = static_cast<std::size_t>(count);
      for (std::size_t axis = 0; axis < 3; ++axis) work_.vectors[3 * n + axis] = static_cast<T>(d[axis]);
      work_.species[n] = input_.species[j];
      work_.neighbors[n] = j;
      // a distance that is not a number stays in, so that it shows in the results
      const double distance2 = d[0] * d[0] + d[1] * d[1] + d[2] * d[2];
      const bool taken = input_.species[j] != EngineInput::absent && !(distance2 >= cutoff2);
      if (taken) least2 = std::min(least2, distance2);
      count += taken;
    }
    on_top_ = least2 < shortest_distance * shortest_distance;
    return count;
  }

  /// Energy of the linear and MLP readouts of B; sets dB.
  T readout() {
    const int row = p_.channel_row;
    Pack<T> linear = {};
    for (int block = 0; block < row; block += lanes<T>) {
      linear += load(work_.B.data() + block) * load(p_.linear.data() + block);
      store(work_.dB.data() + block, load(p_.linear.data() + block));
    }
    const T energy = sum_lanes<T>(linear);
    return p_.layers.empty() ? energy : energy + perceptron();
  }

  /// Energy of the MLP readout; adds its gradient to dB.
  T perceptron() {
    const std::size_t last = p_.layers.size() - 1;
    const T* input = work_.B.data();
    int offset = 0;
    for (std::size_t n = 0; n <= last; ++n) {
      const DenseLayer<T>& layer = p_.layers[n];
      const int width = padded_row(layer.n_out);
      T* out = work_.hidden.data() + offset;
      multiply_rows(input, layer.n_in, layer.weights.data(), width, layer.bias.data(), out);
      if (n < last) silu(out, work_.slopes.data() + offset, width);
      input = out;
      offset += width;
    }
    const T energy = input[0];

    T* adjoint = work_.adjoint.data();
    adjoint[0] = 1;
    for (std::size_t n = last + 1; n-- > 0;) {
      const DenseLayer<T>& layer = p_.layers[n];
      const int width = padded_row(layer.n_in);
      T* below = adjoint + row_of_adjoint();
      multiply_rows<T>(adjoint, layer.n_out, layer.transposed.data(), width, nullptr, below);
      offset -= padded_row(layer.n_out);
      const T* slope = n > 0 ? work_.slopes.data() + offset - padded_row(p_.layers[n - 1].n_out) : nullptr;
      for (int block = 0; block < width; block += lanes<T>) {
        const Pack<T> g = load(below + block);
        if (slope) {
          store(adjoint + block, g * load(slope + block));
        } else {
          store(work_.dB.data() + block, load(work_.dB.data() + block) + g);
        }
      }
    }
    return energy;
  }

  int row_of_adjoint() const { return static_cast<int>(work_.adjoint.size() / 2); }

  /// Energy of the short-range repulsion, half of each pair; adds its gradients.
  double add_repulsion(int64_t z, int64_t count) {
    double energy = 0;
    const auto n_species = static_cast<int64_t>(p_.atomic_energy.size());
    for_each_pack<T>(0, count, [&](const Lanes<T>& pack) {
      Pack<T> x, y, e, slope, strength = {}, inverse = broadcast<T>(1), third;
      gather(work_.vectors.data(), pack, T(p_.repulsion.outer), x, y, third);
      const Pack<T> r = square_root(x * x + y * y + third * third);
      bool close = false;
      for (int lane = 0; lane < pack.count; ++lane) {
        const auto pair = static_cast<std::size_t>(z * n_species + work_.species[static_cast<std::size_t>(pack.edge[lane])]);
        strength[lane] = p_.repulsion_strength[pair];
        inverse[lane] = p_.inverse_screening[pair];
        close = close || !(r[lane] >= T(p_.repulsion.outer));
      }
      if (!close) return;
      repulsion(r, strength, inverse, p_.repulsion, e, slope);
      const Pack<T> per_length = slope / r;
      for (int lane = 0; lane < pack.count; ++lane) {
        energy += static_cast<double>(e[lane]);
        T* target = work_.gradients.data() + 3 * pack.edge[lane];
        target[0] += per_length[lane] * x[lane];
        target[1] += per_length[lane] * y[lane];
        target[2] += per_length[lane] * third[lane];
      }
    });
    return energy;
  }

  /// F_i += g_ij, F_j -= g_ij; the virial r_ij (x) g_ij goes to i, and once more to j.
  void add_forces(int64_t i, int64_t count) {
    Sum own[3] = {}, virial[9] = {};
    for (int64_t e = 0; e < count; ++e) {
      const T* g = work_.gradients.data() + 3 * e;
      const T* r = work_.vectors.data() + 3 * e;
      const auto j = static_cast<int64_t>(work_.neighbors[static_cast<std::size_t>(e)]);
      Sum* force = sums_.forces + 3 * j;
      for (int axis = 0; axis < 3; ++axis) {
        own[axis] += static_cast<Sum>(g[axis]);
        force[axis] -= static_cast<Sum>(g[axis]);
        for (int other = 0; other < 3; ++other) {
          virial[3 * axis + other] += static_cast<Sum>(r[axis]) * static_cast<Sum>(g[other]);
        }
      }
      if (sums_.neighbor_virials) add_neighbor_virial(r, g, sums_.neighbor_virials + 9 * j);
    }
    for (int axis = 0; axis < 3; ++axis) sums_.forces[3 * i + axis] += own[axis];
    if (!sums_.virials) return;
    for (int n = 0; n < 9; ++n) sums_.virials[9 * i + n] = static_cast<double>(virial[n]);
  }

  static void add_neighbor_virial(const T* r, const T* g, Sum* virial) {
    for (int axis = 0; axis < 3; ++axis) {
      for (int other = 0; other < 3; ++other) {
        virial[3 * axis + other] += static_cast<Sum>(r[axis]) * static_cast<Sum>(g[other]);
      }
    }
  }
};

template <class T, class Sum>
void atoms(const EngineParameters<T>& parameters, const EngineInput& input, Range range, EngineScratch<T>& scratch,
           const EngineSums<Sum>& sums) {
  AtomLoop<T, Sum>(parameters, input, scratch, sums).run(range);
}

}  // namespace

AtomsFunction<float, float> atoms_float32() {
  return &atoms<float, float>;
}
AtomsFunction<float, double> atoms_mixed() {
  return &atoms<float, double>;
}
AtomsFunction<double, double> atoms_float64() {
  return &atoms<double, double>;
}

}  // namespace tesseral::TESSERAL_ISA
