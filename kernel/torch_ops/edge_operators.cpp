// Torch operators over edges: spherical harmonics, radial functions, the neighbour density and its gradient.
#include "common.hpp"
#include "tensor_cache.hpp"

namespace tesseral::torch_ops {
namespace {

template <class T>
HarmonicConstants<T> harmonic_constants(int64_t l_max) {
  check_l_max(l_max);
  return HarmonicConstants<T>(static_cast<int>(l_max));
}

/// The table of a spline as RadialBasis takes it, from one [.., n_radial, n_powers], where that is.
template <class T>
class SplineRows {
 public:
  const T* of(const Tensor& table) {
    const int64_t n_radial = table.size(-2), n_powers = table.size(-1), n_pieces = table.numel() / (n_radial * n_powers);
    if (!is_on_device(table)) {
      rows_ = spline_table<T>(contiguous(table).const_data_ptr<T>(), n_pieces, static_cast<int>(n_radial),
                              static_cast<int>(n_powers));
      return rows_.data();
    }
    static auto& cache = *new TensorCache<Tensor>;
    on_device_ = cache.get({{table}, {current_stream_id(table)}}, [&] {
      Tensor rows = torch::zeros({n_pieces, n_powers, padded_table_row(static_cast<int>(n_radial))}, table.options());
      rows.narrow(2, 0, n_radial).copy_(table.detach().reshape({n_pieces, n_radial, n_powers}).transpose(1, 2));
      return rows;
    });
    return on_device_.const_data_ptr<T>();
  }

 private:
  std::vector<T> rows_;
  Tensor on_device_;
};

/// Radial options as torch passes them.
struct RadialArguments {
  std::string basis;
  int64_t n_radial;
  double cutoff;
  Tensor table;
  Tensor tables;  // [E] of a spline: which table; or undefined

  RadialArguments(const std::string& basis, int64_t n_radial, double cutoff, const Tensor& table,
                  const std::optional<Tensor>& tables)
      : basis(basis), n_radial(n_radial), cutoff(cutoff), table(table), tables(tables.value_or(Tensor())) {}

  /// The result is used while `spline` lives, which gets the table of a spline.
  template <class T>
  RadialBasis<T> resolve(SplineRows<T>& spline) const {
    RadialBasis<T> radial;
    check(cutoff > 0, "cutoff = " + std::to_string(cutoff) + " must be positive (Å)");
    check(n_radial >= 1 && n_radial <= max_radial,
          "n_radial = " + std::to_string(n_radial) + " is outside 1.." + std::to_string(max_radial));
    radial.n_radial = static_cast<int>(n_radial);
    radial.cutoff = static_cast<T>(cutoff);
    if (basis == "bessel") {
      radial.kind = RadialKind::bessel;
    } else if (basis == "chebyshev") {
      radial.kind = RadialKind::chebyshev;
    } else if (basis == "gaussian") {
      radial.kind = RadialKind::gaussian;
    } else if (basis == "spline") {
      radial.kind = RadialKind::spline;
      const bool many = table.dim() == 4;
      check_shape(table, "table",
                  many ? std::vector<int64_t>{-1, -1, n_radial, -1} : std::vector<int64_t>{-1, n_radial, -1});
      check(
          table.numel() > 0 && table.size(-1) <= max_spline_powers && table.scalar_type() == torch::CppTypeToScalarType<T>(),
          "table: expected a non-empty array of the vectors' dtype with at most " + std::to_string(max_spline_powers) +
              " coefficients of each polynomial");
      radial.n_tables = many ? static_cast<int>(table.size(0)) : 1;
      radial.n_intervals = static_cast<int>(table.size(many ? 1 : 0));
      radial.n_powers = static_cast<int>(table.size(-1));
      radial.table = spline.of(table);
      radial.table_row = padded_table_row(radial.n_radial);
    } else {
      check(false, "radial basis '" + basis + "' is unknown: choose bessel, chebyshev, gaussian or spline");
    }
    return radial;
  }

  void check_place(const Tensor& like, const char* name) const {
    if (basis == "spline") check_same_device(table, "table", like, name);
  }
  /// `tables` of so many edges, to be checked.
  IndexArray index_array(int64_t n_edges) const { return {"tables", tables, n_edges, table.dim() == 4 ? table.size(0) : 1}; }
  const int64_t* table_indices() const { return tables.defined() ? tables.const_data_ptr<int64_t>() : nullptr; }
};

// ---- spherical harmonics ------------------------------------------------------------------------------------------

Tensor harmonics_value(const Tensor& vectors, const Tensor& tangents, int64_t l_max) {
  Tensor x = contiguous(vectors), u = tangents.defined() ? contiguous(tangents) : Tensor();
  check_l_max(l_max);
  Tensor out = torch::empty({x.size(0), (l_max + 1) * (l_max + 1)}, x.options());
  const Place place(x);
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "spherical_harmonics", [&] {
    const auto constants = harmonic_constants<scalar_t>(l_max);
    parallel(place, x.size(0), [&](Range range) {
      place.kernels<scalar_t>().harmonics(constants, x.const_data_ptr<scalar_t>(),
                                          u.defined() ? u.const_data_ptr<scalar_t>() : nullptr, range,
                                          out.mutable_data_ptr<scalar_t>());
    });
  });
  return out;
}

Tensor harmonics_gradient_value(const Tensor& G, const Tensor& vectors, const Tensor& tangents, int64_t l_max) {
  Tensor g = contiguous(G), x = contiguous(vectors), u = tangents.defined() ? contiguous(tangents) : Tensor();
  Tensor out = torch::empty_like(x);
  const Place place(x);
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "spherical_harmonics_gradient", [&] {
    const auto constants = harmonic_constants<scalar_t>(l_max);
    parallel(place, x.size(0), [&](Range range) {
      place.kernels<scalar_t>().harmonics_gradient(constants, x.const_data_ptr<scalar_t>(),
                                                   u.defined() ? u.const_data_ptr<scalar_t>() : nullptr,
                                                   g.const_data_ptr<scalar_t>(), range, out.mutable_data_ptr<scalar_t>());
    });
  });
  return out;
}

class HarmonicsGradient : public torch::autograd::Function<HarmonicsGradient> {
 public:
  static Tensor forward(AutogradContext* context, const Tensor& G, const Tensor& vectors, int64_t l_max) {
    context->save_for_backward({G, vectors});
    context->saved_data["l_max"] = l_max;
    return harmonics_gradient_value(G, vectors, {}, l_max);
  }
  static variable_list backward(AutogradContext* context, variable_list outputs) {
    const auto saved = context->get_saved_variables();
    const int64_t l_max = context->saved_data["l_max"].toInt();
    const char* name = "spherical_harmonics";
    Tensor dG, dx;
    if (context->needs_input_grad(0)) {
      dG = last_derivative(harmonics_value(saved[1], outputs[0], l_max), outputs[0], name);
    }
    if (context->needs_input_grad(1)) {
      dx = last_derivative(harmonics_gradient_value(saved[0], saved[1], outputs[0], l_max), outputs[0], name);
    }
    return {dG, dx, Tensor()};
  }
};

class Harmonics : public torch::autograd::Function<Harmonics> {
 public:
  static Tensor forward(AutogradContext* context, const Tensor& vectors, int64_t l_max) {
    context->save_for_backward({vectors});
    context->saved_data["l_max"] = l_max;
    return harmonics_value(vectors, {}, l_max);
  }
  static variable_list backward(AutogradContext* context, variable_list outputs) {
    const auto saved = context->get_saved_variables();
    return {HarmonicsGradient::apply(outputs[0], saved[0], context->saved_data["l_max"].toInt()), Tensor()};
  }
};

Tensor spherical_harmonics(const Tensor& vectors, int64_t l_max) {
  check_real(vectors, "vectors");
  check_shape(vectors, "vectors", {-1, 3});
  return Harmonics::apply(vectors, l_max);
}

Tensor spherical_harmonics_gradient(const Tensor& gradient, const Tensor& vectors, int64_t l_max) {
  check_real(vectors, "vectors");
  check_shape(vectors, "vectors", {-1, 3});
  check_l_max(l_max);
  check_shape(gradient, "gradient", {vectors.size(0), (l_max + 1) * (l_max + 1)});
  check_alike(gradient, "gradient", vectors, "vectors");
  return HarmonicsGradient::apply(gradient, vectors, l_max);
}

// ---- radial functions ---------------------------------------------------------------------------------------------

/// A function of distance with its first two derivatives [E, Q], each given as numbers.
struct RadialParts {
  Tensor value, first, second;
  RadialParts(int64_t n_edges, int64_t n_functions, const torch::TensorOptions& options)
      : value(torch::empty({n_edges, n_functions}, options)),
        first(torch::empty_like(value)),
        second(torch::empty_like(value)) {}
};

/// The first derivative as a function of the distances; its gradient is the second.
class RadialSlope : public torch::autograd::Function<RadialSlope> {
 public:
  static Tensor forward(AutogradContext* context, const Tensor& distances, const Tensor& first, const Tensor& second) {
    (void)distances;
    context->save_for_backward({second});
    return first.clone();
  }
  static variable_list backward(AutogradContext* context, variable_list outputs) {
    const Tensor gradient = (outputs[0].detach() * context->get_saved_variables()[0]).sum(1);
    return {last_derivative(gradient, outputs[0], "radial_basis"), Tensor(), Tensor()};
  }
};

/// The value as a function of the distances; its gradient is RadialSlope's output.
class RadialValue : public torch::autograd::Function<RadialValue> {
 public:
  static Tensor forward(AutogradContext* context, const Tensor& distances, const Tensor& value, const Tensor& slope) {
    (void)distances;
    context->save_for_backward({slope});
    return value.clone();
  }
  static variable_list backward(AutogradContext* context, variable_list outputs) {
    return {(outputs[0] * context->get_saved_variables()[0]).sum(1), Tensor(), Tensor()};
  }
};

Tensor differentiable(const Tensor& distances, const RadialParts& parts) {
  return RadialValue::apply(distances, parts.value, RadialSlope::apply(distances, parts.first, parts.second));
}

RadialParts radial_parts(const Tensor& distances, RadialArguments arguments) {
  check_real(distances, "distances");
  check_shape(distances, "distances", {-1});
  arguments.check_place(distances, "distances");
  arguments.tables = checked_indices(distances, "distances", {arguments.index_array(distances.size(0))})[0];
  Tensor r = contiguous(distances);
  const RadialParts parts(r.size(0), std::max<int64_t>(arguments.n_radial, 0), r.options());
  const Place place(r);
  AT_DISPATCH_FLOATING_TYPES(r.scalar_type(), "radial_basis", [&] {
    SplineRows<scalar_t> spline;
    const auto radial = arguments.resolve<scalar_t>(spline);
    parallel(place, r.size(0), [&](Range range) {
      place.kernels<scalar_t>().radial(radial, r.const_data_ptr<scalar_t>(), arguments.table_indices(), range,
                                       parts.value.mutable_data_ptr<scalar_t>(), parts.first.mutable_data_ptr<scalar_t>(),
                                       parts.second.mutable_data_ptr<scalar_t>());
    });
  });
  return parts;
}

Tensor radial_basis(const Tensor& distances, const std::string& basis, int64_t n_radial, double cutoff, const Tensor& table,
                    const std::optional<Tensor>& tables) {
  return differentiable(distances, radial_parts(distances, {basis, n_radial, cutoff, table, tables}));
}

Tensor radial_basis_gradient(const Tensor& gradient, const Tensor& distances, const std::string& basis, int64_t n_radial,
                             double cutoff, const Tensor& table, const std::optional<Tensor>& tables) {
  const RadialParts parts = radial_parts(distances, {basis, n_radial, cutoff, table, tables});
  check_shape(gradient, "gradient", {distances.size(0), n_radial});
  check_alike(gradient, "gradient", distances, "distances");
  return (gradient * RadialSlope::apply(distances, parts.first, parts.second)).sum(1);
}

// ---- screened nuclear repulsion -----------------------------------------------------------------------------------

Tensor zbl(const Tensor& vectors, const Tensor& centers, const Tensor& center_numbers, const Tensor& neighbor_numbers,
           int64_t n_atoms, double inner, double outer) {
  check_real(vectors, "vectors");
  check_shape(vectors, "vectors", {-1, 3});
  check(inner >= 0 && outer > inner, "zbl: expected 0 <= inner < outer, got inner = " + std::to_string(inner) +
                                         ", outer = " + std::to_string(outer) + " (Å)");
  const int64_t n_edges = vectors.size(0);
  const Tensor atoms = checked_indices(vectors, "vectors", {{"centers", centers, n_edges, n_atoms}})[0];
  check_shape(center_numbers, "center_numbers", {n_edges});
  check_shape(neighbor_numbers, "neighbor_numbers", {n_edges});
  check_same_device(center_numbers, "center_numbers", vectors, "vectors");
  check_same_device(neighbor_numbers, "neighbor_numbers", vectors, "vectors");
  const Tensor zi = center_numbers.to(vectors.scalar_type()), zj = neighbor_numbers.to(vectors.scalar_type());
  // half of the pair energy for each of its two directed edges
  const Tensor strength = (zi * zj * (0.5 * coulomb_constant)).contiguous();
  const Tensor inverse = ((zi.pow(screening_exponent) + zj.pow(screening_exponent)) / screening_length).contiguous();
  const Tensor distances = torch::linalg_vector_norm(vectors, 2, {1});
  Tensor r = contiguous(distances);
  const RadialParts parts(n_edges, 1, r.options());
  Repulsion options;
  options.inner = inner;
  options.outer = outer;
  const Place place(r);
  AT_DISPATCH_FLOATING_TYPES(r.scalar_type(), "zbl", [&] {
    parallel(place, n_edges, [&](Range range) {
      place.kernels<scalar_t>().repulsion(options, r.const_data_ptr<scalar_t>(), strength.const_data_ptr<scalar_t>(),
                                          inverse.const_data_ptr<scalar_t>(), range,
                                          parts.value.mutable_data_ptr<scalar_t>(), parts.first.mutable_data_ptr<scalar_t>(),
                                          parts.second.mutable_data_ptr<scalar_t>());
    });
  });
  return torch::zeros({n_atoms}, vectors.options()).index_add(0, atoms, differentiable(distances, parts).squeeze(1));
}

// ---- neighbour density --------------------------------------------------------------------------------------------

/// Everything but the differentiable arrays.
struct DensityArguments {
  Tensor first, neighbor_species;  // edges of the atoms; species at their ends
  int64_t n_species, l_max;
  RadialArguments radial;

  void save(AutogradContext* context) const {
    auto& data = context->saved_data;
    data["first"] = first;
    data["neighbor_species"] = neighbor_species;
    data["n_species"] = n_species;
    data["l_max"] = l_max;
    data["basis"] = radial.basis;
    data["n_radial"] = radial.n_radial;
    data["cutoff"] = radial.cutoff;
    data["table"] = radial.table;
    data["tables"] = radial.tables;
  }
  static DensityArguments saved(AutogradContext* context) {
    auto& data = context->saved_data;
    return {data["first"].toTensor(),
            data["neighbor_species"].toTensor(),
            data["n_species"].toInt(),
            data["l_max"].toInt(),
            {data["basis"].toStringRef(), data["n_radial"].toInt(), data["cutoff"].toDouble(), data["table"].toTensor(),
             data["tables"].toTensor()}};
  }
  int64_t n_atoms() const { return first.size(0) - 1; }
  int64_t n_inputs() const { return n_species * radial.n_radial; }
  int64_t n_harmonics() const { return (l_max + 1) * (l_max + 1); }
};

/// Runs body(options, edges) with the arrays of one dtype.
template <class T, class Body>
void with_edges(const DensityArguments& arguments, const Tensor& vectors, const Tensor& tangents, Body body) {
  SplineRows<T> spline;
  const DensityOptions<T> options{static_cast<int>(arguments.n_species), arguments.radial.resolve<T>(spline),
                                  harmonic_constants<T>(arguments.l_max)};
  const Edges<T> edges{vectors.const_data_ptr<T>(), tangents.defined() ? tangents.const_data_ptr<T>() : nullptr,
                       arguments.first.const_data_ptr<int64_t>(), arguments.neighbor_species.const_data_ptr<int64_t>(),
                       arguments.radial.table_indices()};
  body(options, edges);
}

Tensor density_value(const Tensor& vectors, const Tensor& tangents, const DensityArguments& arguments) {
  Tensor x = contiguous(vectors), u = tangents.defined() ? contiguous(tangents) : Tensor();
  check_l_max(arguments.l_max);
  Tensor out = torch::empty({arguments.n_atoms(), arguments.n_inputs(), arguments.n_harmonics()}, x.options());
  const Place place(x);
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "density", [&] {
    with_edges<scalar_t>(arguments, x, u, [&](const auto& options, const auto& edges) {
      parallel(place, arguments.n_atoms(), [&](Range range) {
        place.kernels<scalar_t>().density(options, edges, range, out.template mutable_data_ptr<scalar_t>());
      });
    });
  });
  return out;
}

Tensor density_gradient_value(const Tensor& G, const Tensor& vectors, const Tensor& tangents,
                              const DensityArguments& arguments) {
  Tensor g = contiguous(G), x = contiguous(vectors), u = tangents.defined() ? contiguous(tangents) : Tensor();
  Tensor out = torch::empty_like(x);
  const Place place(x);
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "density_gradient", [&] {
    with_edges<scalar_t>(arguments, x, u, [&](const auto& options, const auto& edges) {
      parallel(place, arguments.n_atoms(), [&](Range range) {
        place.kernels<scalar_t>().density_gradient(options, edges, g.const_data_ptr<scalar_t>(), range,
                                                   out.template mutable_data_ptr<scalar_t>());
      });
    });
  });
  return out;
}

class DensityGradient : public torch::autograd::Function<DensityGradient> {
 public:
  static Tensor forward(AutogradContext* context, const Tensor& G, const Tensor& vectors,
                        const DensityArguments& arguments) {
    context->save_for_backward({G, vectors});
    arguments.save(context);
    return density_gradient_value(G, vectors, {}, arguments);
  }
  static variable_list backward(AutogradContext* context, variable_list outputs) {
    const auto saved = context->get_saved_variables();
    const auto arguments = DensityArguments::saved(context);
    Tensor dG, dx;
    if (context->needs_input_grad(0)) {
      dG = last_derivative(density_value(saved[1], outputs[0], arguments), outputs[0], "density");
    }
    if (context->needs_input_grad(1)) {
      dx = last_derivative(density_gradient_value(saved[0], saved[1], outputs[0], arguments), outputs[0], "density");
    }
    return {dG, dx, Tensor()};
  }
};

class Density : public torch::autograd::Function<Density> {
 public:
  static Tensor forward(AutogradContext* context, const Tensor& vectors, const DensityArguments& arguments) {
    context->save_for_backward({vectors});
    arguments.save(context);
    return density_value(vectors, {}, arguments);
  }
  static variable_list backward(AutogradContext* context, variable_list outputs) {
    const auto saved = context->get_saved_variables();
    return {DensityGradient::apply(outputs[0], saved[0], DensityArguments::saved(context)), Tensor()};
  }
};

DensityArguments checked_arguments(const Tensor& vectors, const Tensor& centers, const Tensor& neighbor_species,
                                   int64_t n_atoms, int64_t n_species, int64_t l_max, RadialArguments radial) {
  check_real(vectors, "vectors");
  check_shape(vectors, "vectors", {-1, 3});
  check(n_species > 0, "n_species = " + std::to_string(n_species) + " must be positive");
  check_l_max(l_max);
  radial.check_place(vectors, "vectors");
  const int64_t n_edges = vectors.size(0);
  const auto checked = checked_indices(vectors, "vectors",
                                       {{"centers", centers, n_edges, n_atoms},
                                        {"neighbor_species", neighbor_species, n_edges, n_species},
                                        radial.index_array(n_edges)});
  radial.tables = checked[2];
  return {edge_offsets(checked[0], n_atoms), checked[1], n_species, l_max, std::move(radial)};
}

Tensor density(const Tensor& vectors, const Tensor& centers, const Tensor& neighbor_species, int64_t n_atoms,
               int64_t n_species, int64_t l_max, const std::string& basis, int64_t n_radial, double cutoff,
               const Tensor& table, const std::optional<Tensor>& tables) {
  return Density::apply(vectors, checked_arguments(vectors, centers, neighbor_species, n_atoms, n_species, l_max,
                                                   {basis, n_radial, cutoff, table, tables}));
}

Tensor density_gradient(const Tensor& gradient, const Tensor& vectors, const Tensor& centers, const Tensor& neighbor_species,
                        int64_t n_species, int64_t l_max, const std::string& basis, int64_t n_radial, double cutoff,
                        const Tensor& table, const std::optional<Tensor>& tables) {
  const auto arguments = checked_arguments(vectors, centers, neighbor_species, gradient.size(0), n_species, l_max,
                                           {basis, n_radial, cutoff, table, tables});
  check_shape(gradient, "gradient", {-1, arguments.n_inputs(), arguments.n_harmonics()});
  check_alike(gradient, "gradient", vectors, "vectors");
  return DensityGradient::apply(gradient, vectors, arguments);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(tesseral, library) {
  library.def("spherical_harmonics(Tensor vectors, int l_max) -> Tensor", &spherical_harmonics);
  library.def(
      "radial_basis(Tensor distances, str basis, int n_radial, float cutoff, Tensor table, Tensor? tables=None) -> Tensor",
      &radial_basis);
  library.def("spherical_harmonics_gradient(Tensor gradient, Tensor vectors, int l_max) -> Tensor",
              &spherical_harmonics_gradient);
  library.def(
      "radial_basis_gradient(Tensor gradient, Tensor distances, str basis, int n_radial, float cutoff, Tensor table, "
      "Tensor? tables=None) -> Tensor",
      &radial_basis_gradient);
  library.def(
      "zbl(Tensor vectors, Tensor centers, Tensor center_numbers, Tensor neighbor_numbers, int n_atoms, float inner, "
      "float outer) -> Tensor",
      &zbl);
  library.def(
      "density(Tensor vectors, Tensor centers, Tensor neighbor_species, int n_atoms, int n_species, int l_max, str basis, "
      "int n_radial, float cutoff, Tensor table, Tensor? tables=None) -> Tensor",
      &density);
  library.def(
      "density_gradient(Tensor gradient, Tensor vectors, Tensor centers, Tensor neighbor_species, int n_species, int l_max, "
      "str basis, int n_radial, float cutoff, Tensor table, Tensor? tables=None) -> Tensor",
      &density_gradient);
}

}  // namespace tesseral::torch_ops
