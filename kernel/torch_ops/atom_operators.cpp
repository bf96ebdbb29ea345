// Torch operators over atoms: channel mixing and the symmetric product.
#include <stdexcept>

#include "tables.hpp"
#include "trilinear.hpp"

namespace tesseral::torch_ops {
namespace {

// ---- channel mixing ------------------------------------------------------------------------------------------------

struct MixArguments {
  Tensor species;
  int64_t l_max, n_inputs, n_channels, n_species;

  void save(AutogradContext* context) const {
    context->saved_data["species"] = species;
    context->saved_data["sizes"] = std::vector<int64_t>{l_max, n_inputs, n_channels, n_species};
  }
  static MixArguments saved(AutogradContext* context) {
    const auto sizes = context->saved_data["sizes"].toIntVector();
    return {context->saved_data["species"].toTensor(), sizes[0], sizes[1], sizes[2], sizes[3]};
  }

  template <class T>
  MixShape<T> shape() const {
    return {static_cast<int>(l_max), static_cast<int>(n_inputs), static_cast<int>(n_channels),
            species.const_data_ptr<int64_t>()};
  }
  int64_t n_atoms() const { return species.size(0); }
  int64_t n_harmonics() const { return (l_max + 1) * (l_max + 1); }

  Tensor forward(const Tensor& features, const Tensor& weights) const {
    Tensor x = contiguous(features), w = contiguous(weights);
    Tensor out = torch::empty({n_atoms(), n_harmonics(), n_channels}, x.options());
    const Place place(x);
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "mix", [&] {
      parallel(place, n_atoms(), [&](Range range) {
        place.kernels<scalar_t>().mix(shape<scalar_t>(), x.const_data_ptr<scalar_t>(), w.const_data_ptr<scalar_t>(), range,
                                      out.mutable_data_ptr<scalar_t>());
      });
    });
    return out;
  }
  Tensor input_gradient(const Tensor& gradient, const Tensor& weights) const {
    Tensor g = contiguous(gradient), w = contiguous(weights);
    Tensor out = torch::empty({n_atoms(), n_inputs, n_harmonics()}, g.options());
    const Place place(g);
    AT_DISPATCH_FLOATING_TYPES(g.scalar_type(), "mix_input_gradient", [&] {
      parallel(place, n_atoms(), [&](Range range) {
        place.kernels<scalar_t>().mix_input_gradient(shape<scalar_t>(), g.const_data_ptr<scalar_t>(),
                                                     w.const_data_ptr<scalar_t>(), range, out.mutable_data_ptr<scalar_t>());
      });
    });
    return out;
  }
  Tensor weight_gradient(const Tensor& features, const Tensor& gradient) const {
    Tensor x = contiguous(features), g = contiguous(gradient);
    const std::vector<int64_t> whole = {n_species, l_max + 1, n_inputs, n_channels};
    const Place place(x);
    return parallel_sum(place, n_atoms(), whole, x.options(), [&](Range range, Tensor& own) {
      AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "mix_weight_gradient", [&] {
        place.kernels<scalar_t>().mix_weight_gradient(shape<scalar_t>(), x.const_data_ptr<scalar_t>(),
                                                      g.const_data_ptr<scalar_t>(), range, own.mutable_data_ptr<scalar_t>());
      });
    });
  }
};

Tensor mix(const Tensor& features, const Tensor& weights, const Tensor& species) {
  check_real(features, "features");
  check_alike(features, "features", weights, "weights");
  check_shape(weights, "weights", {-1, -1, -1, -1});
  const int64_t l_max = weights.size(1) - 1;
  check_l_max(l_max);
  check_shape(features, "features", {-1, weights.size(2), (l_max + 1) * (l_max + 1)});
  const auto checked = checked_indices(features, "features", {{"species", species, features.size(0), weights.size(0)}});
  const MixArguments arguments{checked[0], l_max, weights.size(2), weights.size(3), weights.size(0)};
  return Trilinear<MixArguments>::call(Trilinear<MixArguments>::Form::forward, features, weights, arguments);
}

// ---- symmetric product --------------------------------------------------------------------------------------------

struct ProductArguments {
  Tensor species;
  c10::intrusive_ptr<ProductTree> tree;

  ProductShape shape(const Tensor& A, const Tensor& coefficients) const {
    return {static_cast<int>(A.size(1)),
            static_cast<int>(A.size(2)),
            static_cast<int>(coefficients.size(1)),
            tree->n_outputs(),
            tree->depth,
            tree->nodes.data(),
            tree->roots.data(),
            species.const_data_ptr<int64_t>()};
  }
  void save(AutogradContext* context) const {
    context->saved_data["species"] = species;
    context->saved_data["tree"] = c10::IValue::make_capsule(tree);
  }
  static ProductArguments saved(AutogradContext* context) {
    auto& data = context->saved_data;
    return {data["species"].toTensor(), c10::static_intrusive_pointer_cast<ProductTree>(data["tree"].toCapsule())};
  }
};

Tensor product_value(const Tensor& A, const Tensor& coefficients, const ProductArguments& arguments) {
  Tensor a = contiguous(A), c = contiguous(coefficients);
  Tensor out = torch::empty({a.size(0), arguments.tree->n_outputs(), a.size(2)}, a.options());
  const Place place(a);
  AT_DISPATCH_FLOATING_TYPES(a.scalar_type(), "symmetric_product", [&] {
    parallel(place, a.size(0), [&](Range range) {
      place.kernels<scalar_t>().product(arguments.shape(a, c), a.const_data_ptr<scalar_t>(), c.const_data_ptr<scalar_t>(),
                                        range, out.mutable_data_ptr<scalar_t>());
    });
  });
  return out;
}

class ProductGradient : public torch::autograd::Function<ProductGradient> {
 public:
  static variable_list forward(AutogradContext* context, const Tensor& A, const Tensor& coefficients, const Tensor& G,
                               bool with_coefficients, const ProductArguments& arguments) {
    context->save_for_backward({A, coefficients, G});
    arguments.save(context);
    Tensor a = contiguous(A), c = contiguous(coefficients), g = contiguous(G), gA = torch::empty_like(a);
    const Place place(a);
    Tensor gc = run(place, a, c, with_coefficients, [&](auto zero, Range range, void* own) {
      using T = decltype(zero);
      place.kernels<T>().product_gradient(arguments.shape(a, c), {a.template const_data_ptr<T>(), nullptr},
                                          {c.template const_data_ptr<T>(), nullptr}, g.template const_data_ptr<T>(), range,
                                          gA.template mutable_data_ptr<T>(), static_cast<T*>(own));
    });
    if (!with_coefficients) return {gA};
    return {gA, gc};
  }

  static variable_list backward(AutogradContext* context, variable_list outputs) {
    const auto saved = context->get_saved_variables();
    const auto arguments = ProductArguments::saved(context);
    Tensor a = contiguous(saved[0]), c = contiguous(saved[1]), g = contiguous(saved[2]);
    Tensor ua = outputs[0].defined() ? contiguous(outputs[0]) : torch::zeros_like(a);
    Tensor uc = outputs.size() > 1 && outputs[1].defined() ? contiguous(outputs[1]) : Tensor();
    Tensor dA = torch::empty_like(a), dG = torch::empty_like(g);
    const Place place(a);
    Tensor dc = run(place, a, c, context->needs_input_grad(1), [&](auto zero, Range range, void* own) {
      using T = decltype(zero);
      place.kernels<T>().product_gradient_tangent(
          arguments.shape(a, c), {a.template const_data_ptr<T>(), ua.template const_data_ptr<T>()},
          {c.template const_data_ptr<T>(), uc.defined() ? uc.template const_data_ptr<T>() : nullptr},
          g.template const_data_ptr<T>(), range, dA.template mutable_data_ptr<T>(), static_cast<T*>(own),
          dG.template mutable_data_ptr<T>());
    });
    const Tensor& source = outputs[0].defined() ? outputs[0] : outputs[1];
    const char* name = "symmetric_product";
    return {last_derivative(dA, source, name), dc.defined() ? last_derivative(dc, source, name) : dc,
            last_derivative(dG, source, name), Tensor(), Tensor()};
  }

 private:
  /// Runs body(T{}, range, buffer of the coefficients' gradient or null) over all atoms; returns that gradient if wanted.
  template <class Body>
  static Tensor run(const Place& place, const Tensor& a, const Tensor& c, bool with_coefficients, Body body) {
    Tensor sum;
    AT_DISPATCH_FLOATING_TYPES(a.scalar_type(), "symmetric_product_gradient", [&] {
      if (with_coefficients) {
        sum = parallel_sum(place, a.size(0), c.sizes(), c.options(),
                           [&](Range range, Tensor& own) { body(scalar_t(0), range, own.mutable_data_ptr<scalar_t>()); });
      } else {
        parallel(place, a.size(0), [&](Range range) { body(scalar_t(0), range, nullptr); });
      }
    });
    return sum;
  }
};

class Product : public torch::autograd::Function<Product> {
 public:
  static Tensor forward(AutogradContext* context, const Tensor& A, const Tensor& coefficients,
                        const ProductArguments& arguments) {
    context->save_for_backward({A, coefficients});
    arguments.save(context);
    return product_value(A, coefficients, arguments);
  }
  static variable_list backward(AutogradContext* context, variable_list outputs) {
    const auto saved = context->get_saved_variables();
    const bool with_coefficients = context->needs_input_grad(1);
    const variable_list parts =
        ProductGradient::apply(saved[0], saved[1], outputs[0], with_coefficients, ProductArguments::saved(context));
    return {parts[0], with_coefficients ? parts[1] : Tensor(), Tensor()};
  }
};

Tensor symmetric_product(const Tensor& A, const Tensor& coefficients, const Tensor& species, const Tensor& tree,
                         const Tensor& roots) {
  check_real(A, "A");
  check_alike(A, "A", coefficients, "coefficients");
  check_shape(A, "A", {-1, -1, -1});
  check_shape(coefficients, "coefficients", {-1, -1, A.size(2)});
  const auto checked = checked_indices(A, "A", {{"species", species, A.size(0), coefficients.size(0)}});
  return Product::apply(A, coefficients,
                        ProductArguments{checked[0], product_tree(tree, roots, coefficients.size(1), A.size(1))});
}

void choose_instruction_set(const std::string& name) {
  try {
    use_instruction_set(instruction_set_named(name));
  } catch (const std::invalid_argument& error) {
    fail(error.what());
  }
}

void choose_emulated_device(const std::string& path) {
  use_cuda_library(path);
  use_emulated_device();
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(tesseral, library) {
  // Process-wide, to test and to compare: the operators use another instruction set than the best.
  library.def("use_instruction_set(str name) -> ()", &choose_instruction_set);
  // The same with the device library at this path, compiled for the processor, on CPU tensors.
  library.def("use_emulated_device(str path) -> ()", &choose_emulated_device);
  library.def("mix(Tensor features, Tensor weights, Tensor species) -> Tensor", &mix);
  library.def("symmetric_product(Tensor A, Tensor coefficients, Tensor species, Tensor tree, Tensor roots) -> Tensor",
              &symmetric_product);
}

}  // namespace tesseral::torch_ops
