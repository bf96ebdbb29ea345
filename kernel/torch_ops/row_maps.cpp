// Torch operator of the linear maps of channels, one matrix for each block of an atom's rows.
#include <algorithm>

#include "trilinear.hpp"

namespace tesseral::torch_ops {
namespace {

struct MapArguments {
  Tensor species;  // undefined where there is one kind of atom
  std::vector<int64_t> degrees;
  int64_t n_species, n_inputs, n_channels;

  void save(AutogradContext* context) const {
    auto& data = context->saved_data;
    data["species"] = species;
    data["degrees"] = degrees;
    data["sizes"] = std::vector<int64_t>{n_species, n_inputs, n_channels};
  }
  static MapArguments saved(AutogradContext* context) {
    auto& data = context->saved_data;
    const auto sizes = data["sizes"].toIntVector();
    return {data["species"].toTensor(), data["degrees"].toIntVector(), sizes[0], sizes[1], sizes[2]};
  }

  int64_t n_in() const {
    int64_t count = 0;
    for (const int64_t degree : degrees) count += 2 * degree + 1;
    return count;
  }
  int64_t n_out() const {
    int64_t most = -1;
    for (const int64_t degree : degrees) most = std::max(most, degree);
    return (most + 1) * (most + 1);
  }
  /// Of the map itself, or of its adjoint, from n_channels to n_inputs.
  RowMapShape shape(bool adjoint) const {
    RowMapShape result;
    std::vector<bool> written(static_cast<std::size_t>(n_out()), false);
    int32_t start = 0;
    for (const int64_t degree : degrees) {
      const auto width = static_cast<int32_t>(2 * degree + 1), row = static_cast<int32_t>(degree * degree);
      const bool adds = written[static_cast<std::size_t>(row)];
      written[static_cast<std::size_t>(row)] = true;
      result.blocks.push_back(adjoint ? RowBlock{row, start, width, false} : RowBlock{start, row, width, adds});
      start += width;
    }
    result.n_in = static_cast<int>(adjoint ? n_out() : n_in());
    result.n_out = static_cast<int>(adjoint ? n_in() : n_out());
    result.n_inputs = static_cast<int>(adjoint ? n_channels : n_inputs);
    result.row = static_cast<int>(padded_length(adjoint ? n_inputs : n_channels));
    result.n_species = static_cast<int>(n_species);
    result.species = species.defined() ? species.const_data_ptr<int64_t>() : nullptr;
    return result;
  }

  Tensor forward(const Tensor& features, const Tensor& weights) const {
    return mapped(shape(false), features, weights, n_channels);
  }
  Tensor input_gradient(const Tensor& gradient, const Tensor& weights) const {
    return mapped(shape(true), gradient, weights.transpose(2, 3), n_inputs);
  }
  Tensor weight_gradient(const Tensor& features, const Tensor& gradient) const {
    const RowMapShape sizes = shape(false);
    const Tensor x = contiguous(features), g = padded_rows(gradient);
    const std::vector<int64_t> whole = {n_species, static_cast<int64_t>(degrees.size()), n_inputs, g.size(2)};
    const Place place(x);
    const Tensor sum = parallel_sum(place, x.size(0), whole, x.options(), [&](Range range, Tensor& own) {
      AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "map_rows_weight_gradient", [&] {
        place.kernels<scalar_t>().map_rows_weight_gradient(sizes, x.const_data_ptr<scalar_t>(), g.const_data_ptr<scalar_t>(),
                                                           range, own.mutable_data_ptr<scalar_t>());
      });
    });
    return unpadded_rows(sum, n_channels);
  }

 private:
  static Tensor mapped(const RowMapShape& sizes, const Tensor& inputs, const Tensor& weights, int64_t n_outputs) {
    const Tensor x = contiguous(inputs), w = padded_rows(weights);
    Tensor out = torch::empty({x.size(0), sizes.n_out, sizes.row}, x.options());
    const Place place(x);
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "map_rows", [&] {
      parallel(place, x.size(0), [&](Range range) {
        place.kernels<scalar_t>().map_rows(sizes, x.const_data_ptr<scalar_t>(), w.const_data_ptr<scalar_t>(), range,
                                           out.mutable_data_ptr<scalar_t>());
      });
    });
    return unpadded_rows(out, n_outputs);
  }
};

/// Each degree up to the highest occurs, so that every row of the output is written.
void check_degrees(const std::vector<int64_t>& degrees) {
  const int64_t count = static_cast<int64_t>(degrees.size());
  check(count > 0, "degrees: at least one is needed");
  for (const int64_t degree : degrees) check_l_max(degree);
  for (int64_t degree = 0; degree < *std::max_element(degrees.begin(), degrees.end()); ++degree) {
    check(std::find(degrees.begin(), degrees.end(), degree) != degrees.end(),
          "degrees: " + std::to_string(degree) + " is missing");
  }
}

Tensor map_rows(const Tensor& values, const Tensor& weights, std::vector<int64_t> degrees,
                const std::optional<Tensor>& species) {
  check_real(values, "values");
  check_alike(values, "values", weights, "weights");
  check_degrees(degrees);
  check_shape(weights, "weights", {species ? -1 : 1, static_cast<int64_t>(degrees.size()), -1, -1});
  MapArguments arguments{{}, std::move(degrees), weights.size(0), weights.size(2), weights.size(3)};
  check_shape(values, "values", {-1, arguments.n_in(), arguments.n_inputs});
  if (species) {
    arguments.species = checked_indices(values, "values", {{"species", *species, values.size(0), weights.size(0)}})[0];
  }
  return Trilinear<MapArguments>::call(Trilinear<MapArguments>::Form::forward, values, weights, arguments);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(tesseral, library) {
  library.def("map_rows(Tensor values, Tensor weights, int[] degrees, Tensor? species=None) -> Tensor", &map_rows);
}

}  // namespace tesseral::torch_ops
