// Helpers shared by the torch operators: input checks, edge offsets, threads.
#pragma once

#include <ATen/Parallel.h>
#include <torch/library.h>
#include <torch/torch.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "tesseral/operators.hpp"

namespace tesseral::torch_ops {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// Fewest atoms per task of a parallel loop: what they take is long beside the start of a thread.
constexpr int64_t grain = 8;

inline void check(bool condition, const std::string& message) {
  TORCH_CHECK_VALUE(condition, "tesseral: ", message);
}
[[noreturn]] inline void fail(const std::string& message) {
  check(false, message);
  std::abort();  // not reached
}

inline Tensor contiguous(const Tensor& tensor) {
  return tensor.detach().contiguous();
}

inline void check_real(const Tensor& tensor, const char* name) {
  check(tensor.device().is_cpu(),
        std::string(name) + ": the compiled operators run on CPU tensors, got " + tensor.device().str());
  check(tensor.scalar_type() == torch::kFloat32 || tensor.scalar_type() == torch::kFloat64,
        std::string(name) + ": expected float32 or float64, got " + std::string(torch::toString(tensor.scalar_type())));
}

inline void check_shape(const Tensor& tensor, const char* name, std::vector<int64_t> shape) {
  bool matches = tensor.dim() == static_cast<int64_t>(shape.size());
  for (std::size_t d = 0; matches && d < shape.size(); ++d) matches = shape[d] < 0 || tensor.size(d) == shape[d];
  if (matches) return;
  std::string expected = "[";
  for (auto n : shape) expected += (expected.size() > 1 ? ", " : "") + (n < 0 ? std::string("*") : std::to_string(n));
  fail(std::string(name) + ": expected shape " + expected + "], got " + c10::str(tensor.sizes()));
}

inline void check_same_dtype(const Tensor& a, const char* a_name, const Tensor& b, const char* b_name) {
  check(a.scalar_type() == b.scalar_type(), std::string(a_name) + " is " + torch::toString(a.scalar_type()) + " but " +
                                                b_name + " is " + torch::toString(b.scalar_type()) +
                                                ": give both the same dtype");
}

/// Rows of channels are padded to a multiple of this many numbers, a multiple of every pack's lanes.
constexpr int64_t row_padding = 16;

constexpr int64_t padded_length(int64_t length) {
  return (length + row_padding - 1) / row_padding * row_padding;
}
/// Contiguous, the last dimension padded with zeros.
inline Tensor padded_rows(const Tensor& tensor) {
  const int64_t excess = padded_length(tensor.size(-1)) - tensor.size(-1);
  return contiguous(excess ? torch::constant_pad_nd(tensor.detach(), {0, excess}) : tensor);
}
inline Tensor unpadded_rows(const Tensor& tensor, int64_t length) {
  return tensor.defined() ? tensor.narrow(-1, 0, length).contiguous() : tensor;
}

/// int64 indices of shape [size] with 0 <= value < bound.
inline Tensor checked_indices(const Tensor& indices, const char* name, int64_t size, int64_t bound) {
  check(indices.scalar_type() == torch::kInt64, std::string(name) + ": expected int64");
  check_shape(indices, name, {size});
  Tensor out = indices.contiguous();
  const int64_t* data = out.const_data_ptr<int64_t>();
  for (int64_t n = 0; n < size; ++n) {
    if (data[n] >= 0 && data[n] < bound) continue;
    fail(std::string(name) + "[" + std::to_string(n) + "] = " + std::to_string(data[n]) + " is outside 0.." +
         std::to_string(bound - 1));
  }
  return out;
}

inline void check_l_max(int64_t l_max) {
  check(l_max >= 0 && l_max <= max_l, "l_max = " + std::to_string(l_max) + " is outside 0.." + std::to_string(max_l));
}

/// Offsets [n_atoms+1] of each atom's edges; centers must be sorted.
inline std::vector<int64_t> edge_offsets(const Tensor& centers, int64_t n_atoms) {
  const int64_t n_edges = centers.size(0);
  const int64_t* data = centers.const_data_ptr<int64_t>();
  std::vector<int64_t> first(static_cast<std::size_t>(n_atoms) + 1, 0);
  for (int64_t e = 0; e < n_edges; ++e) {
    if (e > 0 && data[e - 1] > data[e]) {
      fail("centers must be sorted: centers[" + std::to_string(e) + "] = " + std::to_string(data[e]) + " comes after " +
           std::to_string(data[e - 1]));
    }
    ++first[static_cast<std::size_t>(data[e]) + 1];
  }
  for (std::size_t i = 1; i < first.size(); ++i) first[i] += first[i - 1];
  return first;
}

/// Runs task(n) for 0 <= n < n_tasks, which is at most torch's number of threads, each on a thread of its own.
void run_tasks(int64_t n_tasks, const std::function<void(int64_t)>& task);

/// Number of tasks for so many atoms or edges.
inline int64_t task_count(int64_t size) {
  return std::max<int64_t>(1, std::min<int64_t>(at::get_num_threads(), size / grain));
}

/// Runs body(Range) over [0, size) on torch's number of threads, in parts of which each thread takes the next.
template <class Body>
void parallel(int64_t size, Body body) {
  const int64_t n_tasks = task_count(size), part = n_tasks == 1 ? size : std::max(grain, size / (8 * n_tasks));
  std::atomic<int64_t> next{0};
  run_tasks(n_tasks, [&](int64_t) {
    for (int64_t begin = next.fetch_add(part); begin < size; begin = next.fetch_add(part)) {
      body(Range{begin, std::min(begin + part, size)});
    }
  });
}

/// Runs body(Range, task) over [0, size) in `n_tasks` equal parts.
template <class Body>
void parallel_parts(int64_t size, int64_t n_tasks, Body body) {
  run_tasks(n_tasks, [&](int64_t task) {
    body(Range{size * task / n_tasks, size * (task + 1) / n_tasks}, static_cast<std::size_t>(task));
  });
}

/// As `parallel`, each task adding to a buffer of its own; the buffers are summed in the order of the tasks, so that
/// the result depends on the number of threads but not on their timing.
template <class Body>
Tensor parallel_sum(int64_t size, at::IntArrayRef shape, const torch::TensorOptions& options, Body body) {
  std::vector<Tensor> partial(static_cast<std::size_t>(task_count(size)));
  parallel_parts(size, task_count(size), [&](Range range, std::size_t task) {
    partial[task] = torch::zeros(shape, options);
    body(range, partial[task]);
  });
  Tensor sum = partial[0];
  for (std::size_t task = 1; task < partial.size(); ++task) sum += partial[task];
  return sum;
}

/// The last derivative the kernel knows: passes its input through and refuses to be differentiated.
class LastDerivative : public torch::autograd::Function<LastDerivative> {
 public:
  static Tensor forward(AutogradContext* context, const Tensor& value, const Tensor& source, const std::string& name) {
    (void)source;
    context->saved_data["name"] = name;
    return value.clone();
  }
  static variable_list backward(AutogradContext* context, variable_list) {
    TORCH_CHECK(false, "tesseral: ", context->saved_data["name"].toStringRef(),
                " has no further derivative: the kernel gives the value, its gradient and the derivative of that");
  }
};

/// Marks `value` as a last derivative when a graph of derivatives is being recorded.
inline Tensor last_derivative(const Tensor& value, const Tensor& source, const char* name) {
  if (!torch::GradMode::is_enabled() || !source.requires_grad()) return value;
  return LastDerivative::apply(value, source, name);
}

}  // namespace tesseral::torch_ops
