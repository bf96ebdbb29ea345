// What the native engine hands to the loops of one instruction set: parameters in the arithmetic's type, with rows padded to
// whole packs of any instruction set.
#pragma once

#include <optional>
#include <vector>

#include "tesseral/aligned.hpp"
#include "tesseral/dispatch.hpp"
#include "tesseral/engine.hpp"
#include "tesseral/operators.hpp"

namespace tesseral {

/// Rows are padded to this many numbers, a multiple of every pack's lanes.
constexpr int row_padding = 16;
static_assert(row_padding % coefficient_block == 0);
constexpr int padded_row(int n) {
  return (n + row_padding - 1) / row_padding * row_padding;
}

/// One layer y = x W + b in both orientations; all but the last are followed by SiLU.
template <class T>
struct DenseLayer {
  int n_in, n_out;              // unpadded
  AlignedVector<T> weights;     // [n_in, padded n_out]
  AlignedVector<T> transposed;  // [n_out, padded n_in]
  AlignedVector<T> bias;        // [padded n_out]
};

/// The symmetric product of one layer.
template <class T>
struct LayerProduct {
  std::vector<TreeNode> tree;
  std::vector<int32_t> roots;  // [n_outputs+1]
  int depth = 0;               // of the tree
  int common_tree = -1;        // its number where it is one (common_trees.hpp)
  AlignedVector<T> weights;    // [S, channel_row / coefficient_block, n_nodes, coefficient_block]

  int n_outputs() const { return static_cast<int>(roots.size()) - 1; }
  int n_nodes() const { return static_cast<int>(tree.size()); }
};

/// Matrices of one shape in both orientations; none: `weights` is empty.
template <class T>
struct MatrixStack {
  int n_in = 0, n_out = 0;      // unpadded
  AlignedVector<T> weights;     // [n, n_in, padded n_out]
  AlignedVector<T> transposed;  // [n, n_out, padded n_in]

  bool empty() const { return weights.empty(); }
  const T* matrix(int64_t n) const { return weights.data() + n * n_in * padded_row(n_out); }
  const T* transposed_matrix(int64_t n) const { return transposed.data() + n * n_out * padded_row(n_in); }
};

/// The couplings of a message as matrices: of each path, for each component of h that it reads, one number for each of its
/// outputs, which are consecutive.
template <class T>
struct CouplingTable {
  struct Path {
    int32_t first_out, n_outs;
    int32_t first_row, last_row;
  };
  struct Row {
    int32_t component;    // of h
    int32_t first_entry;  // of n_outs entries
  };
  struct Entry {
    int32_t first_term, last_term;
  };
  std::vector<Path> paths;
  std::vector<Row> rows;
  std::vector<Entry> entries;
  std::vector<typename MessageTable<T>::Term> terms;

  CouplingTable() = default;
  explicit CouplingTable(const MessageTable<T>& table);
};

/// Entries of a coupling table; l_max 8 with features of degree 2 has fewer.
constexpr int most_coupling_entries = 2048;

/// Radial functions of a layer.
template <class T>
struct LayerRadial {
  RadialBasis<T> basis;
  AlignedVector<T> tables;  // of splines

  /// Spline tables depend on the species of both atoms: that of an edge is center * S + neighbour.
  bool by_pair() const { return basis.n_tables > 1; }
};

/// The messages of a layer.
template <class T>
struct LayerMessage {
  LayerRadial<T> radial;
  AlignedVector<T> weights;  // [paths, n_radial, channel_row]
  // splines multiplied into the weights, if they fit into memory: [n_tables, n_intervals, paths, n_powers, channel_row]
  AlignedVector<T> channel_tables;
  CouplingTable<T> couplings;
  int n_outputs = 0;
  MatrixStack<T> mixing;         // [S or 1, blocks] messages to A, a block of 2 l + 1 outputs at a time; may be empty
  std::vector<int32_t> degrees;  // [blocks] l
  bool mixing_by_species = false;

  int n_paths() const { return static_cast<int>(couplings.paths.size()); }
};

/// One layer: A^t from the density (t = 0) or from messages, its products, and their map to features. Of the local model,
/// only `product` is set.
template <class T>
struct EngineLayer {
  LayerProduct<T> product;
  int output_l = 0;                        // products and features have degrees 0..output_l
  MatrixStack<T> update;                   // [output_l+1] products to features
  AlignedVector<T> constant;               // [S, padded features] added to those of degree 0; t = 0, may be empty
  MatrixStack<T> residual;                 // [S, output_l+1] features of the layer before to features; may be empty
  MatrixStack<T> handed;                   // [output_l+1] features to what neighbours get of them; empty: the same
  std::optional<LayerMessage<T>> message;  // t >= 1
  AlignedVector<T> readout;                // [channel_row] features of degree 0 to energy, but for the last layer
};

template <class T>
struct EngineParameters {
  DensityOptions<T> density;
  LayerRadial<T> radial;  // of the density
  int l_max = 0, n_inputs = 0, n_channels = 0;
  int message_l = 0;        // degrees of the features that are handed on
  int channel_row = 0;      // padded n_channels
  AlignedVector<T> mixing;  // [S, l_max+1, n_inputs, channel_row]
  // A of layer t is divided by 1 + sum_c normaliser[t, z, c] density[c, degree 0]: [layers, S, n_inputs], may be empty
  AlignedVector<T> normaliser;
  std::vector<EngineLayer<T>> layers;
  // readout: of the product in local models, of the last layer's features in layered ones
  AlignedVector<T> linear;
  std::vector<DenseLayer<T>> perceptron;  // may be empty
  T scale = 0;
  std::vector<double> atomic_energy;  // [S] E0 + shift
  bool has_repulsion = false;
  Repulsion repulsion;
  AlignedVector<T> repulsion_strength;  // [S, S]
  AlignedVector<T> inverse_screening;   // [S, S]
  AlignedVector<T> repulsion_outer;     // [S, S] Å

  int n_layers() const { return static_cast<int>(layers.size()); }
  /// Some splines depend on the species of both atoms.
  bool radial_by_pair() const {
    bool any = radial.by_pair();
    for (const EngineLayer<T>& layer : layers) any = any || (layer.message && layer.message->radial.by_pair());
    return any;
  }
  /// Neighbours get other numbers of an atom than its own features.
  bool hands_on() const { return !layers.front().handed.empty(); }
  const T* normaliser_of(int layer, int64_t species) const {
    return normaliser.data() + (layer * density.n_species + species) * n_inputs;
  }
  int n_harmonics() const { return (l_max + 1) * (l_max + 1); }
  /// Length of one atom's features: [(message_l+1)^2, channel_row].
  int64_t feature_row() const { return n_layers() == 1 ? 0 : (message_l + 1) * (message_l + 1) * int64_t{channel_row}; }
};

/// Atoms of one species that a thread works on at once, so that each matrix is read from memory once for all of them.
constexpr int block_atoms = 8;

/// Working arrays of one thread for a block of atoms [n, ..] and their edges, those of one atom after the other.
template <class T>
struct EngineScratch {
  struct Edge {
    int64_t species;
    int32_t neighbor;
    T vector[3];
  };

  std::vector<int64_t> order;            // atoms by species
  int64_t stride = 0;                    // most edges of a block, padded
  AlignedVector<T> vectors, gradients;   // [3, stride]
  std::vector<int64_t> species;          // [edges]
  std::vector<int64_t> tables;           // [edges] spline table by pair of species
  std::vector<int32_t> neighbors;        // [edges]
  std::vector<Edge> unsorted;            // [edges]
  std::vector<int64_t> species_places;   // [S+1]
  AlignedVector<T> harmonics;            // [edges, padded LM]
  AlignedVector<T> phi;                  // [n, n_inputs, padded LM]
  AlignedVector<T> dphi;                 // [n_radial, padded LM] of one atom and species of neighbours
  AlignedVector<T> A, dA;                // [n, LM, channel_row]
  AlignedVector<T> message, dmessage;    // [n, message outputs, channel_row], where they are mixed
  AlignedVector<T> radial, slopes;       // [n_radial, stride]
  std::vector<const T*> pieces;          // [edges] of the channel tables
  AlignedVector<T> positions;            // [edges] within the piece, 0..1
  AlignedVector<T> couplings;            // [entries of a coupling table, stride]
  AlignedVector<T> by_edge;              // [edges, entries] gradients by harmonics or couplings, and by the distance
  AlignedVector<T> B, dB;                // [n, most outputs of a product, channel_row]
  AlignedVector<T> features, dfeatures;  // [n, padded features] of the last layer; of others dfeatures [n, feature_row]
  // MLP: activations and SiLU slopes of each layer [n, width], one layer after the other; adjoints of two layers
  AlignedVector<T> hidden, silu_slopes, adjoint, adjoint_below;

  T* vector(int axis) { return vectors.data() + axis * stride; }
  const T* vector(int axis) const { return vectors.data() + axis * stride; }
  T* gradient(int axis) { return gradients.data() + axis * stride; }

  EngineScratch(const EngineParameters<T>& parameters, int64_t most_edges);
};

/// One loop over the atoms. A call makes the passes forward for all layers but the last, last, and backward for all but the
/// last in reverse order. Rows of features are [n_atoms, feature_row]. An atom's own features are those that neighbours get
/// unless EngineParameters::hands_on().
template <class T>
struct EnginePass {
  enum class Kind {
    forward,  // features of the layer
    last,     // energies; adjoints of the features of the layer before
    backward  // from the adjoints of the layer's features to those of the layer before
  };
  Kind kind;
  int layer;
  T* features;             // forward: what neighbours get, written for the centers
  T* own_features;         // forward: features of the centers; the same as `features` unless something else is handed on
  const T* before;         // what neighbours got from the layer before; null in layer 0
  const T* own_before;     // features of the layer before
  const T* adjoints;       // backward: dE/d(features)
  const T* own_adjoints;   // backward: dE/d(own_features); null if they are the same
  T* adjoints_before;      // last, backward: added to; null in layer 0
  T* own_adjoints_before;  // last, backward: added to
  // [layers, n_centers] sums in the denominators of A, set in layer 0, and dE/d(sum), set in the others; may be null
  T* normalisers;
  T* normaliser_adjoints;
};

/// Sums of one thread, of type Sum (float or double). Energies are overwritten in layer 0, the rest is added to.
template <class Sum>
struct EngineSums {
  double* energies;        // [n_centers]
  Sum* forces;             // [n_atoms, 3]
  double* virials;         // [n_centers, 9] or null
  Sum* neighbor_virials;   // [n_atoms, 9] or null
  double* const* columns;  // [n_channels] of [n_centers] or null, or null
};

template <class T, class Sum>
using AtomsFunction = void (*)(const EngineParameters<T>&, const EngineInput&, const EnginePass<T>&, Range atoms,
                               EngineScratch<T>&, const EngineSums<Sum>&);

/// Loop over a range of centers for an instruction set.
template <class T, class Sum>
AtomsFunction<T, Sum> atoms_function(InstructionSet set);

}  // namespace tesseral
