// Arrays of indices: no kernel reads one that was not checked.
#pragma once

#include <torch/torch.h>

#include <initializer_list>
#include <vector>

namespace tesseral::torch_ops {

/// An array of indices that an operator is given: int64 of shape [size] with 0 <= value < bound; undefined where it may be.
struct IndexArray {
  const char* name;
  const torch::Tensor& indices;
  int64_t size;
  int64_t bound;
};

/// The arrays, contiguous; ValueError unless each is as said and on the device of `like`, an argument of this name. On a
/// device torch's operators check those that were not checked before, all with one wait for their result.
std::vector<torch::Tensor> checked_indices(const torch::Tensor& like, const char* like_name,
                                           std::initializer_list<IndexArray> arrays);

/// Offsets [n_atoms+1] of each atom's edges, from centers that checked_indices gave; ValueError unless they are sorted.
torch::Tensor edge_offsets(const torch::Tensor& centers, int64_t n_atoms);

}  // namespace tesseral::torch_ops
