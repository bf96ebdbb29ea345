// Helpers shared by the torch operators: checks of arguments, rows of channels, the end of what can be differentiated.
#pragma once

#include <torch/library.h>
#include <torch/torch.h>

#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "indices.hpp"
#include "place.hpp"

namespace tesseral::torch_ops {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

inline void check(bool condition, const std::string& message) {
  TORCH_CHECK_VALUE(condition, "tesseral: ", message);
}
[[noreturn]] inline void fail(const std::string& message) {
  check(false, message);
  std::abort();  // not reached
}

/// From an address at which 16 bytes can be read at once, unlike that of some views.
inline Tensor contiguous(const Tensor& tensor) {
  Tensor whole = tensor.detach().contiguous();
  return reinterpret_cast<uintptr_t>(whole.const_data_ptr()) % 16 == 0 ? whole : whole.clone();
}

inline void check_device(const Tensor& tensor, const char* name) {
  check(tensor.is_cpu() || tensor.is_cuda(),
        std::string(name) + ": the compiled operators run on CPU and CUDA tensors, got " + tensor.device().str());
}

inline void check_real(const Tensor& tensor, const char* name) {
  check_device(tensor, name);
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

inline void check_same_device(const Tensor& a, const char* a_name, const Tensor& b, const char* b_name) {
  if (a.device() == b.device()) return;
  fail(std::string(a_name) + " is on " + a.device().str() + " but " + b_name + " is on " + b.device().str() +
       ": move both to the same device");
}

/// Of one dtype and on one device.
inline void check_alike(const Tensor& a, const char* a_name, const Tensor& b, const char* b_name) {
  check(a.scalar_type() == b.scalar_type(), std::string(a_name) + " is " + torch::toString(a.scalar_type()) + " but " +
                                                b_name + " is " + torch::toString(b.scalar_type()) +
                                                ": give both the same dtype");
  check_same_device(a, a_name, b, b_name);
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

inline void check_l_max(int64_t l_max) {
  check(l_max >= 0 && l_max <= max_l, "l_max = " + std::to_string(l_max) + " is outside 0.." + std::to_string(max_l));
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
