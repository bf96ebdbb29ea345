// Autograd of operators that are trilinear in features, weights and cotangent: their three forms are each other's
// derivatives, to any order.
#pragma once

#include "common.hpp"

namespace tesseral::torch_ops {

/// One of the three forms, each a function of two of {features, weights, gradient}. Arguments has what is not
/// differentiated, with save(context), static saved(context), and forward(features, weights),
/// input_gradient(gradient, weights) and weight_gradient(features, gradient).
template <class Arguments>
class Trilinear : public torch::autograd::Function<Trilinear<Arguments>> {
 public:
  enum class Form : int64_t { forward, input_gradient, weight_gradient };

  static Tensor call(Form form, const Tensor& a, const Tensor& b, const Arguments& arguments) {
    return Trilinear::apply(a, b, static_cast<int64_t>(form), arguments);
  }

  static Tensor forward(AutogradContext* context, const Tensor& a, const Tensor& b, int64_t form,
                        const Arguments& arguments) {
    context->save_for_backward({a, b});
    context->saved_data["form"] = form;
    arguments.save(context);
    switch (static_cast<Form>(form)) {
      case Form::forward:
        return arguments.forward(a, b);
      case Form::input_gradient:
        return arguments.input_gradient(a, b);
      case Form::weight_gradient:
        return arguments.weight_gradient(a, b);
    }
    TORCH_CHECK(false, "tesseral: unknown form of a trilinear operator");
  }

  static variable_list backward(AutogradContext* context, variable_list outputs) {
    const auto saved = context->get_saved_variables();
    const auto arguments = Arguments::saved(context);
    const Tensor& a = saved[0];
    const Tensor& b = saved[1];
    const Tensor& g = outputs[0];
    const bool need_a = context->needs_input_grad(0), need_b = context->needs_input_grad(1);
    Tensor da, db;
    switch (static_cast<Form>(context->saved_data["form"].toInt())) {
      case Form::forward:  // a features, b weights
        if (need_a) da = call(Form::input_gradient, g, b, arguments);
        if (need_b) db = call(Form::weight_gradient, a, g, arguments);
        break;
      case Form::input_gradient:  // a gradient, b weights; g is like features
        if (need_a) da = call(Form::forward, g, b, arguments);
        if (need_b) db = call(Form::weight_gradient, g, a, arguments);
        break;
      case Form::weight_gradient:  // a features, b gradient; g is like weights
        if (need_a) da = call(Form::input_gradient, b, g, arguments);
        if (need_b) db = call(Form::forward, a, g, arguments);
        break;
    }
    return {da, db, Tensor(), Tensor()};
  }
};

}  // namespace tesseral::torch_ops
