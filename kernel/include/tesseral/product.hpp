// The symmetric product of one atom: polynomials in A_{k lm}, the same for every channel but for their coefficients,
// evaluated as Horner trees with the channels in SIMD lanes. Value and gradient come from one traversal.
#pragma once

#include <type_traits>

#include "tesseral/operators.hpp"
#include "tesseral/pack.hpp"
#include "tesseral/rows.hpp"

namespace tesseral::TESSERAL_ISA {

/// Array of packs, or of duals (values and tangents apart).
template <class V>
struct Stream {
  using T = Element<V>;
  T* values;
  T* tangents;

  V get(int64_t offset) const {
    if constexpr (sizeof(V) == sizeof(Pack<T>)) {
      return load(values + offset);
    } else {
      return {load(values + offset), tangents ? load(tangents + offset) : Pack<T>{}};
    }
  }
  void add(int64_t offset, const V& amount) const {
    if constexpr (sizeof(V) == sizeof(Pack<T>)) {
      store(values + offset, load(values + offset) + amount);
    } else {  // of a dual only the tangent is wanted
      store(tangents + offset, load(tangents + offset) + amount.tangent);
    }
  }
};

/// What a traversal computes beside the value.
enum class Wanted { value, gradient, gradient_and_coefficients };

/// One atom's product for B packs of channels. Strides: one row of channels each.
template <class V, int B, Wanted wanted>
struct ProductTraversal {
  using T = Element<V>;
  const TreeNode* tree;
  int row;                 // channel stride of all arrays
  Stream<V> A;             // [LM, row]
  Stream<V> coefficients;  // [n_nodes, row]
  Stream<V> gradient;      // of A, added to
  Stream<V> coefficient_gradient;

  /// value += sum over the nodes first..last-1 of A * (coefficient + sum over their children of the same); adjoint =
  /// d(total)/d(value) goes down the tree. The levels of the tree are unrolled, so that their sums stay in registers.
  template <int level = 1>
  [[gnu::always_inline]] void visit(int first, int last, const V (&adjoint)[B], V (&value)[B], int block) const {
    for (int n = first; n < last; ++n) {
      const TreeNode node = tree[n];
      const int64_t at = static_cast<int64_t>(node.factor) * row + block;
      const int64_t own = static_cast<int64_t>(n) * row + block;
      V factor[B], inner[B];
      TESSERAL_UNROLL for (int b = 0; b < B; ++b) {
        factor[b] = A.get(at + b * lanes<T>);
        inner[b] = coefficients.get(own + b * lanes<T>);
        if constexpr (wanted == Wanted::gradient_and_coefficients) {
          coefficient_gradient.add(own + b * lanes<T>, adjoint[b] * factor[b]);
        }
      }
      if constexpr (level < max_order) {
        if (node.first_child < node.last_child) {
          V below[B];
          TESSERAL_UNROLL for (int b = 0; b < B; ++b) below[b] = adjoint[b] * factor[b];
          visit<level + 1>(node.first_child, node.last_child, below, inner, block);
        }
      }
      TESSERAL_UNROLL for (int b = 0; b < B; ++b) {
        value[b] += factor[b] * inner[b];
        if constexpr (wanted != Wanted::value) gradient.add(at + b * lanes<T>, adjoint[b] * inner[b]);
      }
    }
  }
};

/// The product's outputs [n_outputs, row] of one atom; `cotangent` [n_outputs, row] seeds the gradients (null: ones).
template <class V, Wanted wanted>
struct ProductAtom {
  using T = Element<V>;
  const ProductShape& shape;
  int row;
  Stream<V> A, coefficients, gradient, coefficient_gradient;
  const T* cotangent;
  Stream<V> out;  // added to; may have null arrays

  void run() const {
    for_each_block<T>(row, [&](auto packs, int block) { run_block<decltype(packs)::value>(block); });
  }

  /// visit(constant number of packs, first channel) for blocks of channels that cover a row.
  template <class Number, class Visit>
  static void for_each_block(int row, Visit visit) {
    int block = 0;
    for (; block + 4 * lanes<Number> <= row; block += 4 * lanes<Number>) visit(std::integral_constant<int, 4>(), block);
    for (; block < row; block += lanes<Number>) visit(std::integral_constant<int, 1>(), block);
  }

  template <int B>
  void run_block(int block) const {
    const ProductTraversal<V, B, wanted> traversal{shape.tree, row, A, coefficients, gradient, coefficient_gradient};
    for (int o = 0; o < shape.n_outputs; ++o) {
      V adjoint[B], value[B];
      for (int b = 0; b < B; ++b) {
        value[b] = constant<V>(0);
        adjoint[b] = constant<V>(1);
        if (cotangent) {
          adjoint[b] = lift_to<V>(load(cotangent + static_cast<int64_t>(o) * row + block + b * lanes<T>));
        }
      }
      traversal.visit(shape.roots[o], shape.roots[o + 1], adjoint, value, block);
      if (!out.values && !out.tangents) continue;
      for (int b = 0; b < B; ++b) out.add(static_cast<int64_t>(o) * row + block + b * lanes<T>, value[b]);
    }
  }
};

}  // namespace tesseral::TESSERAL_ISA
