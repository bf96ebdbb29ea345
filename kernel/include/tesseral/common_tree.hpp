// A tree of monomials that the compiler knows.
#pragma once

#include <vector>

#include "tesseral/operators.hpp"

namespace tesseral {

template <int n_nodes, int n_outputs>
struct CommonTree {
  TreeNode nodes[n_nodes];
  int32_t roots[n_outputs + 1];

  /// From factor and number of children of each node: children follow one another in the order of their parents.
  constexpr CommonTree(const int8_t (&rows)[n_nodes][2], const int32_t (&roots_of_outputs)[n_outputs + 1])
      : nodes{}, roots{} {
    for (int o = 0; o <= n_outputs; ++o) roots[o] = roots_of_outputs[o];
    int32_t child = roots[n_outputs];
    for (int n = 0; n < n_nodes; child += rows[n++][1]) nodes[n] = {rows[n][0], child, child + rows[n][1]};
    if (child != n_nodes) throw "every node but the roots is the child of one";
  }

  static constexpr int outputs() { return n_outputs; }
  constexpr int depth() const { return depth_of(roots[0], roots[n_outputs]); }
  bool equals(const std::vector<TreeNode>& tree, const std::vector<int32_t>& of_outputs) const {
    if (tree.size() != n_nodes || of_outputs.size() != n_outputs + 1) return false;
    for (int o = 0; o <= n_outputs; ++o) {
      if (of_outputs[o] != roots[o]) return false;
    }
    for (int n = 0; n < n_nodes; ++n) {
      const TreeNode &a = tree[n], &b = nodes[n];
      if (a.factor != b.factor || a.last_child - a.first_child != b.last_child - b.first_child) return false;
      if (a.first_child < a.last_child && a.first_child != b.first_child) return false;
    }
    return true;
  }

 private:
  constexpr int depth_of(int32_t first, int32_t last) const {
    int deepest = 0;
    for (int32_t n = first; n < last; ++n) {
      const int below = depth_of(nodes[n].first_child, nodes[n].last_child);
      deepest = deepest > below + 1 ? deepest : below + 1;
    }
    return deepest;
  }
};

}  // namespace tesseral
