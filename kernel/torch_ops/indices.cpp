#include "indices.hpp"

#include <algorithm>

#include "common.hpp"
#include "tensor_cache.hpp"

namespace tesseral::torch_ops {
namespace {

/// Of the indices in the processor's memory.
void check_range(const char* name, const Tensor& indices, int64_t bound) {
  const int64_t* data = indices.const_data_ptr<int64_t>();
  const int64_t size = indices.size(0);
  const uint64_t last = static_cast<uint64_t>(std::max<int64_t>(bound, 0)) - 1;
  uint64_t signs = 0;  // of the indices and of their distances from the last one
  for (int64_t n = 0; n < size; ++n) signs |= static_cast<uint64_t>(data[n]) | (last - static_cast<uint64_t>(data[n]));
  if (static_cast<int64_t>(signs) >= 0) return;
  for (int64_t n = 0; n < size; ++n) {
    if (data[n] >= 0 && data[n] < bound) continue;
    fail(std::string(name) + "[" + std::to_string(n) + "] = " + std::to_string(data[n]) + " is outside 0.." +
         std::to_string(bound - 1));
  }
}

/// Likewise; counts the edges of each atom in first[atom + 1] too.
void count_sorted(const Tensor& centers, int64_t* first) {
  const int64_t* data = centers.const_data_ptr<int64_t>();
  const int64_t size = centers.size(0);
  for (int64_t e = 0; e < size; ++e) {
    if (e > 0 && data[e - 1] > data[e]) {
      fail("centers must be sorted: centers[" + std::to_string(e) + "] = " + std::to_string(data[e]) + " comes after " +
           std::to_string(data[e - 1]));
    }
    ++first[data[e] + 1];
  }
}

/// What the checks need to know of an array on a device.
struct IndexFacts {
  int64_t least = 0, most = -1;
  bool sorted = true;
};

/// The facts of each array, with one wait for all that are not known from an earlier call.
std::vector<IndexFacts> facts_of(const std::vector<Tensor>& arrays) {
  static auto& cache =
      *new TensorCache<IndexFacts>;  // never destroyed, as the other caches: CUDA ends before static objects
  std::vector<IndexFacts> facts(arrays.size());
  std::vector<std::size_t> unknown;
  std::vector<Tensor> rows;
  for (std::size_t n = 0; n < arrays.size(); ++n) {
    const Tensor& array = arrays[n];
    if (array.numel() == 0) continue;
    if (const auto known = cache.find({{array}, {}})) {
      facts[n] = *known;
      continue;
    }
    const auto [least, most] = torch::aminmax(array);
    const Tensor sorted = (array.slice(0, 1) >= array.slice(0, 0, -1)).all();
    rows.push_back(torch::stack({least, most, sorted.to(torch::kInt64)}));
    unknown.push_back(n);
  }
  if (unknown.empty()) return facts;
  const Tensor found = torch::stack(rows).cpu();
  const int64_t* row = found.const_data_ptr<int64_t>();
  for (const std::size_t n : unknown) {
    facts[n] = {row[0], row[1], row[2] != 0};
    cache.keep({{arrays[n]}, {}}, facts[n]);
    row += 3;
  }
  return facts;
}

}  // namespace

std::vector<Tensor> checked_indices(const Tensor& like, const char* like_name, std::initializer_list<IndexArray> arrays) {
  const bool on_device = is_on_device(like);
  std::vector<Tensor> checked, of_device;
  checked.reserve(arrays.size());
  for (const auto& [name, indices, size, bound] : arrays) {
    if (indices.defined()) {
      check(indices.scalar_type() == torch::kInt64, std::string(name) + ": expected int64");
      check_same_device(indices, name, like, like_name);
      check_shape(indices, name, {size});
      if (on_device) of_device.push_back(indices);
    }
    checked.push_back(indices.defined() ? indices.contiguous() : indices);
    if (indices.defined() && !on_device) check_range(name, checked.back(), bound);
  }
  if (!on_device) return checked;
  const std::vector<IndexFacts> facts = facts_of(of_device);
  std::size_t n = 0;
  for (const auto& [name, indices, size, bound] : arrays) {
    if (!indices.defined()) continue;
    if (size > 0 && (facts[n].least < 0 || facts[n].most >= bound)) check_range(name, indices.cpu().contiguous(), bound);
    ++n;
  }
  return checked;
}

Tensor edge_offsets(const Tensor& centers, int64_t n_atoms) {
  const auto options = torch::TensorOptions().dtype(torch::kInt64).device(centers.device());
  if (!is_on_device(centers)) {
    Tensor first = torch::empty({n_atoms + 1}, options);
    auto* data = first.mutable_data_ptr<int64_t>();
    std::fill_n(data, n_atoms + 1, 0);
    count_sorted(centers, data);
    for (int64_t i = 0; i < n_atoms; ++i) data[i + 1] += data[i];
    return first;
  }
  static auto& cache = *new TensorCache<Tensor>;
  return cache.get({{centers}, {n_atoms, current_stream_id(centers)}}, [&] {
    if (!facts_of({centers})[0].sorted) {
      std::vector<int64_t> first(static_cast<std::size_t>(n_atoms) + 1);
      count_sorted(centers.cpu(), first.data());
    }
    return torch::searchsorted(centers, torch::arange(n_atoms + 1, options));
  });
}

}  // namespace tesseral::torch_ops
