#include "tables.hpp"

#include "common.hpp"
#include "tensor_cache.hpp"

namespace tesseral::torch_ops {
namespace {

/// Of int32 numbers in rows of the size of an Item.
template <class Item>
std::vector<Item> items_of(const Tensor& tensor) {
  const Tensor numbers = tensor.cpu().contiguous();
  const auto* first = reinterpret_cast<const Item*>(numbers.const_data_ptr<int32_t>());
  return {first, first + numbers.size(0)};
}

}  // namespace

c10::intrusive_ptr<ProductTree> product_tree(const Tensor& tree, const Tensor& roots, int64_t n_nodes, int64_t n_harmonics) {
  check_device(tree, "tree");
  check_device(roots, "roots");
  check(tree.scalar_type() == torch::kInt32 && roots.scalar_type() == torch::kInt32, "tree and roots must be int32");
  check_shape(tree, "tree", {n_nodes, 3});
  check(roots.dim() == 1 && roots.size(0) >= 1, "roots: expected shape [n_out+1]");
  static auto& cache = *new TensorCache<c10::intrusive_ptr<ProductTree>>;
  return cache.get({{tree, roots}, {n_nodes, n_harmonics}}, [&] {
    auto made = c10::make_intrusive<ProductTree>();
    made->nodes = items_of<TreeNode>(tree);
    made->roots = items_of<int32_t>(roots);
    const std::string fault = tree_fault(made->nodes, made->roots, static_cast<int>(n_harmonics));
    if (!fault.empty()) fail(fault);
    made->depth = tree_depth(made->nodes.data(), made->roots.data(), made->n_outputs());
    return made;
  });
}

c10::intrusive_ptr<MessageTables> message_tables(const Tensor& terms, const Tensor& couplings, const MessageSizes& sizes) {
  check_device(terms, "terms");
  check_device(couplings, "couplings");
  check(terms.scalar_type() == torch::kInt32, "terms: expected int32");
  check_shape(terms, "terms", {-1, 4});
  check_shape(couplings, "couplings", {terms.size(0)});
  const auto& [n_paths, n_harmonics, n_outputs, n_components] = sizes;
  static auto& cache = *new TensorCache<c10::intrusive_ptr<MessageTables>>;
  return cache.get({{terms, couplings}, {n_paths, n_harmonics, n_outputs, n_components}}, [&] {
    const auto list = items_of<MessageTerm>(terms);
    const std::string fault = message_fault(list, static_cast<int>(n_paths), static_cast<int>(n_harmonics),
                                            static_cast<int>(n_outputs), static_cast<int>(n_components));
    if (!fault.empty()) fail(fault);
    const Tensor numbers = contiguous(couplings).to(torch::kCPU, torch::kFloat64);
    return c10::make_intrusive<MessageTables>(list, numbers.const_data_ptr<double>(), static_cast<int>(n_paths));
  });
}

}  // namespace tesseral::torch_ops
