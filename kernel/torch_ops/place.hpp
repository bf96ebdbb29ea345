// Where an operator runs: on the processor, its atoms or edges shared out to threads, or on a device.
#pragma once

#include <ATen/Parallel.h>
#include <c10/core/DeviceGuard.h>
#include <torch/torch.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <type_traits>
#include <vector>

#include "tesseral/cuda_library.hpp"
#include "tesseral/dispatch.hpp"
#include "tesseral/operators.hpp"

namespace tesseral::torch_ops {

/// Whether the operators of this tensor are those of a device: of a GPU, or of one that the processor emulates
/// (dispatch.hpp).
inline bool is_on_device(const torch::Tensor& tensor) {
  return tensor.is_cuda() || device_is_emulated();
}

/// The id of the stream that torch works in on the tensor's device.
inline int64_t current_stream_id(const torch::Tensor& tensor) {
  return c10::impl::getDeviceGuardImpl(tensor.device().type())->getStream(tensor.device()).id();
}

/// The library with the operators of a GPU, which from now on uses this GPU and torch's current stream there.
const CudaLibrary& library_in_current_stream(c10::Device gpu);

/// The processor, or a tensor's device, which is the current one until the end of the scope. What runs on a device is done
/// later, in the order of its stream, as torch's own operators.
class Place {
 public:
  explicit Place(const torch::Tensor& tensor) : on_device_(is_on_device(tensor)) {
    if (!tensor.is_cuda()) return;
    guard_.reset_device(tensor.device());
    library_ = &library_in_current_stream(tensor.device());
  }

  bool on_device() const { return on_device_; }

  template <class T>
  const Kernels<T>& kernels() const {
    if (!library_) return tesseral::kernels<T>();
    if constexpr (std::is_same_v<T, float>) {
      return *library_->kernels_float32;
    } else {
      return *library_->kernels_float64;
    }
  }

 private:
  bool on_device_;
  c10::OptionalDeviceGuard guard_;
  const CudaLibrary* library_ = nullptr;
};

/// Runs task(n) for 0 <= n < n_tasks, which is at most torch's number of threads, each on a thread of its own.
void run_tasks(int64_t n_tasks, const std::function<void(int64_t)>& task);

/// Fewest atoms per task of a parallel loop: what they take is long beside the start of a thread.
constexpr int64_t grain = 8;

/// Number of tasks for so many atoms or edges; a device takes them all at once.
inline int64_t task_count(const Place& place, int64_t size) {
  return place.on_device() ? 1 : std::max<int64_t>(1, std::min<int64_t>(at::get_num_threads(), size / grain));
}

/// Runs body(Range) over [0, size) on torch's number of threads, in parts of which each thread takes the next.
template <class Body>
void parallel(const Place& place, int64_t size, Body body) {
  const int64_t n_tasks = task_count(place, size), part = n_tasks == 1 ? size : std::max(grain, size / (8 * n_tasks));
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
/// the result depends on the number of threads but not on their timing. On a device it may depend on the timing.
template <class Body>
torch::Tensor parallel_sum(const Place& place, int64_t size, at::IntArrayRef shape, const torch::TensorOptions& options,
                           Body body) {
  const int64_t n_tasks = task_count(place, size);
  std::vector<torch::Tensor> partial(static_cast<std::size_t>(n_tasks));
  parallel_parts(size, n_tasks, [&](Range range, std::size_t task) {
    partial[task] = torch::zeros(shape, options);
    body(range, partial[task]);
  });
  torch::Tensor sum = partial[0];
  for (std::size_t task = 1; task < partial.size(); ++task) sum += partial[task];
  return sum;
}

}  // namespace tesseral::torch_ops
