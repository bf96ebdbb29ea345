// What the native engine hands to the loops of one instruction set: parameters in the arithmetic's type, with rows padded to
// whole packs of any instruction set.
#pragma once

#include <vector>

#include "tesseral/aligned.hpp"
#include "tesseral/dispatch.hpp"
#include "tesseral/engine.hpp"
#include "tesseral/operators.hpp"

namespace tesseral {

/// Rows are padded to this many numbers, a multiple of every pack's lanes.
constexpr int row_padding = 16;
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

template <class T>
struct EngineParameters {
  DensityOptions<T> density;
  int l_max = 0, n_inputs = 0, n_channels = 0, n_nodes = 0;
  int input_row = 0, channel_row = 0;  // padded n_inputs, n_channels
  AlignedVector<T> mixing;             // [S, l_max+1, n_inputs, channel_row]
  AlignedVector<T> mixing_transposed;  // [S, l_max+1, channel_row, input_row]
  std::vector<TreeNode> tree;
  std::vector<int32_t> roots;
  AlignedVector<T> product;           // [S, n_nodes, channel_row]
  AlignedVector<T> linear;            // [channel_row] linear readout of the product
  std::vector<DenseLayer<T>> layers;  // of the MLP readout; may be empty
  AlignedVector<T> radial_table;
  T scale = 0;
  std::vector<double> atomic_energy;  // [S] E0 + shift
  bool has_repulsion = false;
  Repulsion repulsion{0, 0};
  AlignedVector<T> repulsion_strength;  // [S, S]
  AlignedVector<T> inverse_screening;   // [S, S]
};

/// Working arrays of one thread.
template <class T>
struct EngineScratch {
  AlignedVector<T> vectors, gradients;       // [edges, 3]
  std::vector<int64_t> species;              // [edges]
  std::vector<int32_t> neighbors;            // [edges]
  AlignedVector<T> phi, dphi;                // [n_inputs, padded LM]
  AlignedVector<T> A, dA;                    // [LM, channel_row]
  AlignedVector<T> B, dB;                    // [channel_row]
  AlignedVector<T> hidden, slopes, adjoint;  // MLP: activations and SiLU slopes of all layers; one layer's adjoint

  EngineScratch(const EngineParameters<T>& parameters, int64_t most_edges);
};

/// Sums of one thread, of type Sum (float or double); forces added to.
template <class Sum>
struct EngineSums {
  double* energies;        // [n_centers]
  Sum* forces;             // [n_atoms, 3]
  double* virials;         // [n_centers, 9] or null
  Sum* neighbor_virials;   // [n_atoms, 9] or null
  double* const* columns;  // [n_channels] of [n_centers] or null, or null
};

template <class T, class Sum>
using AtomsFunction = void (*)(const EngineParameters<T>&, const EngineInput&, Range atoms, EngineScratch<T>&,
                               const EngineSums<Sum>&);

/// Loop over a range of centers for an instruction set.
template <class T, class Sum>
AtomsFunction<T, Sum> atoms_function(InstructionSet set);

}  // namespace tesseral
