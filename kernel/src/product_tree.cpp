// Check of the tree of monomials that the symmetric product walks.
#include <algorithm>

#include "tesseral/operators.hpp"

namespace tesseral {

std::string tree_fault(const std::vector<TreeNode>& tree, const std::vector<int32_t>& roots, int n_harmonics) {
  const auto n_nodes = static_cast<int32_t>(tree.size());
  std::vector<int> depth(tree.size(), 0);
  for (std::size_t o = 0; o + 1 < roots.size(); ++o) {
    if (roots[o] < 0 || roots[o] > roots[o + 1] || roots[o + 1] > n_nodes) {
      return "roots[" + std::to_string(o) + "] leads outside the tree";
    }
    for (int32_t n = roots[o]; n < roots[o + 1]; ++n) depth[static_cast<std::size_t>(n)] = 1;
  }
  for (int32_t n = 0; n < n_nodes; ++n) {
    const TreeNode& node = tree[static_cast<std::size_t>(n)];
    const std::string name = "tree[" + std::to_string(n) + "]";
    if (node.factor < 0 || node.factor >= n_harmonics) return name + " leads outside the harmonics";
    if (node.first_child == node.last_child) continue;
    if (node.first_child <= n || node.first_child > node.last_child || node.last_child > n_nodes) {
      return name + " leads outside the tree";
    }
    const int below = depth[static_cast<std::size_t>(n)] + 1;
    if (below > max_order) return name + " is deeper than order " + std::to_string(max_order);
    for (int32_t child = node.first_child; child < node.last_child; ++child) {
      int& own = depth[static_cast<std::size_t>(child)];
      own = own > below ? own : below;
    }
  }
  return "";
}

namespace {

int depth_of(const TreeNode* tree, int32_t first, int32_t last) {
  int deepest = 0;
  for (int32_t n = first; n < last; ++n)
    deepest = std::max(deepest, 1 + depth_of(tree, tree[n].first_child, tree[n].last_child));
  return deepest;
}

}  // namespace

int tree_depth(const TreeNode* tree, const int32_t* roots, int n_outputs) {
  return depth_of(tree, roots[0], roots[n_outputs]);
}

}  // namespace tesseral
