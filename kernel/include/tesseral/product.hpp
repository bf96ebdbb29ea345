// Symmetric products of atoms: polynomials in A_{k lm}, the same for every channel but for their coefficients,
// evaluated as Horner trees with the channels in SIMD lanes. Value and gradient come from one traversal, which serves
// processors (ProductAtoms) and devices (src/cuda/product.cu).
#pragma once

#include <utility>

#include "tesseral/common_trees.hpp"
#include "tesseral/operators.hpp"
#include "tesseral/pack.hpp"

#ifdef __CUDA_ARCH__
/// Before the loop over the nodes of a level, which are few.
#define TESSERAL_SHORT_LOOP _Pragma("unroll 1")
#else
#define TESSERAL_SHORT_LOOP
#endif

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
  /// Of a dual only the tangent is wanted.
  void set(int64_t offset, const V& amount) const {
    if constexpr (sizeof(V) == sizeof(Pack<T>)) {
      store(values + offset, amount);
    } else {
      store(tangents + offset, amount.tangent);
    }
  }
  void add(int64_t offset, const V& amount) const {
    T* target = sizeof(V) == sizeof(Pack<T>) ? values : tangents;
    if constexpr (sizeof(V) == sizeof(Pack<T>)) {
      store(target + offset, load(target + offset) + amount);
    } else {
      store(target + offset, load(target + offset) + amount.tangent);
    }
  }
};

/// What a traversal computes beside the value.
enum class Wanted { value, gradient, gradient_and_coefficients };

/// One component of A and its gradient for B packs. Side by side, so that no load of A looks like one of a gradient that was
/// just stored, of which the processor compares the last 12 bits of the address.
template <class V, int B>
struct ProductFactor {
  V A[B];
  V gradient[B];
};

/// Node n of a common tree, its numbers known to the compiler.
template <class Common, int n>
struct KnownNode {
  static constexpr int factor = Common::tree.nodes[n].factor;
  static constexpr int first_child = Common::tree.nodes[n].first_child, last_child = Common::tree.nodes[n].last_child;
};

/// The product of N atoms for P packs of channels each, B packs in all, by a tree that is at most so deep. `Factors` gives
/// what ProductFactor holds, `Coefficients` and `CoefficientSums` do what a Stream does.
template <class V, int N, int P, int depth, Wanted wanted, class Factors = ProductFactor<V, N * P>*,
          class Coefficients = Stream<V>, class CoefficientSums = Stream<V>>
struct ProductTraversal {
  using T = Element<V>;
  static constexpr int B = N * P;
  const TreeNode* tree;
  Factors factors;            // [LM]; gradients are added to
  Coefficients coefficients;  // of all atoms
  CoefficientSums coefficient_gradient;
  int64_t node_stride;  // of both
  int64_t packs[P];     // where those of the packs begin

  /// value += sum over the nodes first..last-1 of A * (coefficient + sum over their children of the same); adjoint =
  /// d(total)/d(value) goes down the tree. The levels of the tree are unrolled, so that their sums stay in registers.
  template <int level = 1>
  TESSERAL_ALWAYS_INLINE void visit(int first, int last, const V (&adjoint)[B], V (&value)[B]) const {
    int64_t own = first * node_stride;
    TESSERAL_SHORT_LOOP for (const TreeNode* node = tree + first; node != tree + last; ++node, own += node_stride) {
      visit_node<level>(*node, own, adjoint, value);
    }
  }

  /// The same for nodes of a common tree, coefficient_block apart: code without loops and without addresses to work out.
  template <class Common, int first, int last, int level = 1>
  TESSERAL_ALWAYS_INLINE void visit_known(const V (&adjoint)[B], V (&value)[B]) const {
    visit_known_nodes<Common, first, level>(std::make_integer_sequence<int, last - first>{}, adjoint, value);
  }

 private:
  template <class Common, int first, int level, int... steps>
  TESSERAL_ALWAYS_INLINE void visit_known_nodes(std::integer_sequence<int, steps...>, const V (&adjoint)[B],
                                                V (&value)[B]) const {
    (visit_node<level>(KnownNode<Common, first + steps>{}, (first + steps) * int64_t{coefficient_block}, adjoint, value),
     ...);
  }

  template <int level>
  TESSERAL_ALWAYS_INLINE void visit_children(const TreeNode& node, const V (&adjoint)[B], V (&value)[B]) const {
    visit<level>(node.first_child, node.last_child, adjoint, value);
  }
  template <int level, class Common, int n>
  TESSERAL_ALWAYS_INLINE void visit_children(KnownNode<Common, n> node, const V (&adjoint)[B], V (&value)[B]) const {
    visit_known<Common, node.first_child, node.last_child, level>(adjoint, value);
  }

  /// One node, of the model's tree or known to the compiler, whose coefficients are at `own`.
  template <int level, class Node>
  TESSERAL_ALWAYS_INLINE void visit_node(const Node& node, int64_t own, const V (&adjoint)[B], V (&value)[B]) const {
    auto&& component = factors[node.factor];
    V factor[B], inner[B], coefficient[P];
    TESSERAL_UNROLL for (int p = 0; p < P; ++p) coefficient[p] = coefficients.get(own + packs[p]);
    TESSERAL_UNROLL for (int b = 0; b < B; ++b) {
      factor[b] = component.A[b];
      inner[b] = coefficient[b % P];
      if constexpr (wanted == Wanted::gradient_and_coefficients && N == 1) {
        coefficient_gradient.add(own + packs[b % P], adjoint[b] * factor[b]);
      }
    }
    if constexpr (wanted == Wanted::gradient_and_coefficients && N > 1) {
      TESSERAL_UNROLL for (int p = 0; p < P; ++p) {
        V sum = adjoint[p] * factor[p];
        TESSERAL_UNROLL for (int b = p + P; b < B; b += P) sum += adjoint[b] * factor[b];
        coefficient_gradient.add(own + packs[p], sum);
      }
    }
    if constexpr (level < depth) {
      if (node.first_child < node.last_child) {
        V below[B];
        TESSERAL_UNROLL for (int b = 0; b < B; ++b) below[b] = adjoint[b] * factor[b];
        visit_children<level + 1>(node, below, inner);
      }
    }
    TESSERAL_UNROLL for (int b = 0; b < B; ++b) {
      value[b] += factor[b] * inner[b];
      if constexpr (wanted != Wanted::value) component.gradient[b] += adjoint[b] * inner[b];
    }
  }
};

/// Atoms whose products are worked out together, one pack of channels at a time: they share the loads of the coefficients.
constexpr int product_atoms = 4;
/// Not for vectors of 16 bytes: x86 processors with no longer ones are too old to be worth the time of the compiler.
constexpr bool compiles_common_trees = lanes<float> > 4;
/// Trees of this depth leave more registers to the lowest level than those of max_order.
constexpr int usual_depth = 3;

/// The way through a tree node by node.
struct OwnTree {
  const ProductShape& shape;

  template <class F>
  void for_each_output(const F& f) const {
    for (int o = 0; o < shape.n_outputs; ++o) f(o);
  }
  template <class Traversal, class Packs>
  TESSERAL_ALWAYS_INLINE void visit(const Traversal& traversal, int o, const Packs& adjoint, Packs& value) const {
    traversal.visit(shape.roots[o], shape.roots[o + 1], adjoint, value);
  }
};

/// The way through a common tree.
template <class Common>
struct KnownTree {
  template <class F>
  void for_each_output(const F& f) const {
    [&]<int... outputs>(std::integer_sequence<int, outputs...>) {
      (f(std::integral_constant<int, outputs>()), ...);
    }(std::make_integer_sequence<int, Common::tree.outputs()>());
  }
  template <class Traversal, int o, class Packs>
  TESSERAL_ALWAYS_INLINE void visit(const Traversal& traversal, std::integral_constant<int, o>, const Packs& adjoint,
                                    Packs& value) const {
    traversal.template visit_known<Common, Common::tree.roots[o], Common::tree.roots[o + 1]>(adjoint, value);
  }
};

/// The products' outputs [n, n_outputs, row] of atoms with the same coefficients; `cotangent` [n, n_outputs, row] seeds the
/// gradients (null: ones).
template <class V, Wanted wanted>
struct ProductAtoms {
  using T = Element<V>;
  const ProductShape& shape;
  int row;
  // of the coefficients, from node to node and from each coefficient_block channels to the next
  int64_t node_stride, block_stride;
  Stream<V> A, coefficients, gradient, coefficient_gradient;  // A and its gradient: [n, LM, row]
  const T* cotangent;
  Stream<V> out;  // may have null arrays

  void run(int n_atoms) const {
    int a = 0;
    if constexpr (wanted != Wanted::gradient_and_coefficients && sizeof(V) == sizeof(Pack<T>)) {
      for (int block = 0; n_atoms >= product_atoms && block < row; block += lanes<T>) {
        for (a = 0; a + product_atoms <= n_atoms; a += product_atoms) run_block<product_atoms, 1>(a, block);
      }
    }
    for (; a < n_atoms; ++a) {
      int block = 0;
      for (; block + 4 * lanes<T> <= row; block += 4 * lanes<T>) run_block<1, 4>(a, block);
      for (; block < row; block += lanes<T>) run_block<1, 1>(a, block);
    }
  }

  /// The same for the common tree of this number; the coefficients of a node lie coefficient_block behind those before.
  void run_common(int number, int n_atoms) const {
    if constexpr (compiles_common_trees) {
      with_common_tree(number, [&](auto common) { run_known<decltype(common)>(n_atoms); });
    }
  }

 private:
  template <class Common>
  void run_known(int n_atoms) const {
    static_assert(Common::tree.depth() <= usual_depth);
    for (int block = 0; block < row; block += lanes<T>) {
      for (int a = 0; a < n_atoms; ++a) run_tree<1, 1, usual_depth>(a, block, KnownTree<Common>());
    }
  }

  /// N atoms from `first` on, P packs of channels from `block` on.
  template <int N, int P>
  void run_block(int first, int block) const {
    if (shape.depth <= usual_depth) return run_tree<N, P, usual_depth>(first, block, OwnTree{shape});
    run_tree<N, P, max_order>(first, block, OwnTree{shape});
  }

  /// By an OwnTree or a KnownTree.
  template <int N, int P, int depth, class Tree>
  void run_tree(int first, int block, const Tree& way) const {
    constexpr int B = N * P;
    const int row = this->row, n_harmonics = shape.n_harmonics, n_outputs = shape.n_outputs;
    const int64_t atom_stride = static_cast<int64_t>(n_harmonics) * row, out_stride = static_cast<int64_t>(n_outputs) * row;
    const Stream<V> A = this->A, gradient = this->gradient;
    // where pack b of B lies in an array with this stride from atom to atom
    const auto offset = [=](int b, int64_t stride) { return (first + b / P) * stride + block + b % P * lanes<T>; };
    ProductFactor<V, B> factors[max_harmonics];
    for (int lm = 0; lm < n_harmonics; ++lm) {
      TESSERAL_UNROLL for (int b = 0; b < B; ++b) {
        factors[lm].A[b] = A.get(offset(b, atom_stride) + lm * row);
        if constexpr (wanted != Wanted::value) factors[lm].gradient[b] = constant<V>(0);
      }
    }
    ProductTraversal<V, N, P, depth, wanted> traversal{shape.tree,           factors,     coefficients,
                                                       coefficient_gradient, node_stride, {}};
    for (int p = 0; p < P; ++p) {
      const int channel = block + p * lanes<T>;
      traversal.packs[p] = channel / coefficient_block * block_stride + channel % coefficient_block;
    }
    way.for_each_output([&](auto o) __attribute__((always_inline)) {
      V adjoint[B], value[B];
      TESSERAL_UNROLL for (int b = 0; b < B; ++b) {
        value[b] = constant<V>(0);
        adjoint[b] = cotangent ? lift_to<V>(load(cotangent + offset(b, out_stride) + o * row)) : constant<V>(1);
      }
      way.visit(traversal, o, adjoint, value);
      if (!out.values && !out.tangents) return;
      TESSERAL_UNROLL for (int b = 0; b < B; ++b) out.set(offset(b, out_stride) + o * row, value[b]);
    });
    if constexpr (wanted == Wanted::value) return;
    for (int lm = 0; lm < n_harmonics; ++lm) {
      TESSERAL_UNROLL for (int b = 0; b < B; ++b) {
        gradient.set(offset(b, atom_stride) + lm * row, factors[lm].gradient[b]);
      }
    }
  }
};

}  // namespace tesseral::TESSERAL_ISA
