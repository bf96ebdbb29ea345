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
  }

  static constexpr int outputs() { return n_outputs; }
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
};

}  // namespace tesseral
