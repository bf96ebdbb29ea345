// The small tables of a model, which the kernels take from the processor's memory on every device.
#pragma once

#include <torch/torch.h>

#include <vector>

#include "tesseral/operators.hpp"

namespace tesseral::torch_ops {

/// A tree of monomials without fault.
struct ProductTree : torch::CustomClassHolder {
  std::vector<TreeNode> nodes;
  std::vector<int32_t> roots;
  int depth = 0;

  int n_outputs() const { return static_cast<int>(roots.size()) - 1; }
};

/// From tensors on the processor or on a device, of which it is copied; ValueError for one that leads out of its arrays,
/// which would read foreign memory. A tree that was read before is known as long as its tensors live unchanged.
c10::intrusive_ptr<ProductTree> product_tree(const torch::Tensor& tree, const torch::Tensor& roots, int64_t n_nodes,
                                             int64_t n_harmonics);

/// The terms of a message in groups.
struct MessageTables : torch::CustomClassHolder {
  MessageTables(const std::vector<MessageTerm>& terms, const double* couplings, int n_paths)
      : float32_(terms, couplings, n_paths), float64_(terms, couplings, n_paths) {}

  template <class T>
  const MessageTable<T>& of_type() const;

 private:
  MessageTable<float> float32_;
  MessageTable<double> float64_;
};

template <>
inline const MessageTable<float>& MessageTables::of_type<float>() const {
  return float32_;
}
template <>
inline const MessageTable<double>& MessageTables::of_type<double>() const {
  return float64_;
}

struct MessageSizes {
  int64_t n_paths, n_harmonics, n_outputs, n_components;
};

/// As product_tree, for terms of int32 and their couplings; ValueError for terms outside these sizes or in a wrong order.
c10::intrusive_ptr<MessageTables> message_tables(const torch::Tensor& terms, const torch::Tensor& couplings,
                                                 const MessageSizes& sizes);

}  // namespace tesseral::torch_ops
