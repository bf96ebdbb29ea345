// Torch operator of the messages: the value is multilinear in radial, angular, h and weights; its gradients and their
// derivatives come from one traversal with plain and with dual numbers.
#include <algorithm>

#include "common.hpp"
#include "tables.hpp"

namespace tesseral::torch_ops {
namespace {

/// radial, angular, h, weights, or numbers of the same shapes.
using Factors = std::array<Tensor, 4>;
enum Factor : std::size_t { radial, angular, h, weights };

Factors padded_factors(const Factors& x) {
  return {contiguous(x[radial]), contiguous(x[angular]), padded_rows(x[h]),
          x[weights].defined() ? padded_rows(x[weights]) : Tensor()};
}

/// What is not differentiated.
struct MessageArguments {
  Tensor first, neighbors;  // edges of the atoms, and at which row of h each ends
  c10::intrusive_ptr<MessageTables> tables;
  int64_t n_outputs;

  void save(AutogradContext* context) const {
    auto& data = context->saved_data;
    data["first"] = first;
    data["neighbors"] = neighbors;
    data["tables"] = c10::IValue::make_capsule(tables);
    data["n_outputs"] = n_outputs;
  }
  static MessageArguments saved(AutogradContext* context) {
    auto& data = context->saved_data;
    return {data["first"].toTensor(), data["neighbors"].toTensor(),
            c10::static_intrusive_pointer_cast<MessageTables>(data["tables"].toCapsule()), data["n_outputs"].toInt()};
  }
  int64_t n_atoms() const { return first.size(0) - 1; }
};

/// The arrays of one dtype as the kernel takes them; arguments, `x` and `tangents` (with padded rows) outlive this.
template <class T>
struct MessageCall {
  MessageShape<T> shape;
  MessageInputs<T> inputs;

  MessageCall(const MessageArguments& arguments, const Factors& x, const Factors* tangents)
      : shape{static_cast<int>(x[radial].size(1)),   static_cast<int>(x[angular].size(1)),
              static_cast<int>(arguments.n_outputs), static_cast<int>(x[h].size(1)),
              static_cast<int>(x[h].size(2)),        &arguments.tables->of_type<T>()} {
    const auto field = [&](Factor n) {
      const bool has_tangents = tangents && (*tangents)[n].defined();
      return Field<const T>{x[n].const_data_ptr<T>(), has_tangents ? (*tangents)[n].const_data_ptr<T>() : nullptr};
    };
    inputs = {field(radial),
              field(angular),
              field(h),
              field(weights),
              arguments.first.const_data_ptr<int64_t>(),
              arguments.neighbors.const_data_ptr<int64_t>()};
  }
};

Tensor message_value(const Factors& given, const MessageArguments& arguments) {
  const Factors x = padded_factors(given);
  Tensor out = torch::empty({arguments.n_atoms(), arguments.n_outputs, x[h].size(2)}, x[h].options());
  const Place place(out);
  AT_DISPATCH_FLOATING_TYPES(out.scalar_type(), "message", [&] {
    const MessageCall<scalar_t> call(arguments, x, nullptr);
    parallel(place, arguments.n_atoms(), [&](Range range) {
      place.kernels<scalar_t>().message(call.shape, call.inputs, range, out.mutable_data_ptr<scalar_t>());
    });
  });
  return unpadded_rows(out, given[h].size(2));
}

/// Gradients by the four factors (undefined where not wanted) and the tangent of the message.
struct MessageDerivatives {
  Factors factors;
  Tensor out;
};

/// What one task adds to: its own weights' gradient, and its own rows of h's.
struct TaskSums {
  Tensor h, weights;
  int64_t first_row = 0;

  TaskSums(const Factors& x, Range rows, bool with_weights) : first_row(rows.begin) {
    h = torch::zeros({rows.end - rows.begin, x[Factor::h].size(1), x[Factor::h].size(2)}, x[Factor::h].options());
    if (with_weights) weights = torch::zeros_like(x[Factor::weights]);
  }
};

/// Of h, from the first to the last neighbour that some atoms have; on a device all rows.
Range rows_of(const Place& place, const MessageArguments& arguments, Range atoms, int64_t n_rows) {
  if (place.on_device()) return {0, n_rows};
  const int64_t* first = arguments.first.const_data_ptr<int64_t>();
  const int64_t* neighbors = arguments.neighbors.const_data_ptr<int64_t>();
  if (first[atoms.begin] == first[atoms.end]) return {0, 0};
  const auto [least, most] = std::minmax_element(neighbors + first[atoms.begin], neighbors + first[atoms.end]);
  return {*least, *most + 1};
}

/// Gradients of <G, message>, or with tangents their derivatives along these. Each task adds to sums of its own, which are
/// added up in the order of the tasks: the result depends on the number of threads but not on their timing, except on a
/// device, where one task adds everything.
MessageDerivatives message_gradient_value(const Factors& given, const Factors* given_tangents, const Tensor& G,
                                          bool with_geometry, bool with_weights, const MessageArguments& arguments) {
  const Factors x = padded_factors(given), tangents = given_tangents ? padded_factors(*given_tangents) : Factors();
  const Tensor g = padded_rows(G);
  MessageDerivatives result;
  if (with_geometry) {
    result.factors[radial] = torch::empty_like(x[radial]);
    result.factors[angular] = torch::empty_like(x[angular]);
  }
  if (given_tangents) result.out = torch::empty_like(g);
  const Place place(g);
  const int64_t n_atoms = arguments.n_atoms();
  const int64_t n_tasks = task_count(place, n_atoms);
  std::vector<std::optional<TaskSums>> sums(static_cast<std::size_t>(n_tasks));
  AT_DISPATCH_FLOATING_TYPES(g.scalar_type(), "message_gradient", [&] {
    const auto data = [](const Tensor& t) { return t.defined() ? t.mutable_data_ptr<scalar_t>() : nullptr; };
    const MessageCall<scalar_t> call(arguments, x, given_tangents ? &tangents : nullptr);
    parallel_parts(n_atoms, n_tasks, [&](Range atoms, std::size_t task) {
      TaskSums& own = sums[task].emplace(x, rows_of(place, arguments, atoms, x[h].size(0)), with_weights);
      place.kernels<scalar_t>().message_gradient(call.shape, call.inputs, g.const_data_ptr<scalar_t>(), atoms,
                                                 {data(result.factors[radial]), data(result.factors[angular]), data(own.h),
                                                  own.first_row, data(own.weights), data(result.out)});
    });
  });
  if (sums.size() == 1 && sums[0]->h.size(0) == x[h].size(0)) {
    result.factors[h] = sums[0]->h;
  } else {
    result.factors[h] = torch::zeros_like(x[h]);
    for (const auto& own : sums) result.factors[h].narrow(0, own->first_row, own->h.size(0)) += own->h;
  }
  result.factors[weights] = sums[0]->weights;
  for (std::size_t task = 1; with_weights && task < sums.size(); ++task) result.factors[weights] += sums[task]->weights;
  for (Tensor* rows : {&result.factors[h], &result.factors[weights], &result.out}) {
    *rows = unpadded_rows(*rows, given[h].size(2));
  }
  return result;
}

class MessageGradient : public torch::autograd::Function<MessageGradient> {
 public:
  /// Returns the gradients by h, by radial and angular if with_geometry, by weights if with_weights.
  static variable_list forward(AutogradContext* context, const Tensor& radial_, const Tensor& angular_, const Tensor& h_,
                               const Tensor& weights_, const Tensor& G, bool with_geometry, bool with_weights,
                               const MessageArguments& arguments) {
    context->save_for_backward({radial_, angular_, h_, weights_, G});
    context->saved_data["with_geometry"] = with_geometry;
    context->saved_data["with_weights"] = with_weights;
    arguments.save(context);
    const Factors parts =
        message_gradient_value({radial_, angular_, h_, weights_}, nullptr, G, with_geometry, with_weights, arguments)
            .factors;
    variable_list wanted = {parts[h]};
    if (with_geometry) wanted.insert(wanted.end(), {parts[radial], parts[angular]});
    if (with_weights) wanted.push_back(parts[weights]);
    return wanted;
  }

  static variable_list backward(AutogradContext* context, variable_list outputs) {
    const auto saved = context->get_saved_variables();
    const Factors x{saved[0], saved[1], saved[2], saved[3]};
    const Factors u =
        unpack(outputs, x, context->saved_data["with_geometry"].toBool(), context->saved_data["with_weights"].toBool());
    const bool with_geometry = context->needs_input_grad(radial) || context->needs_input_grad(angular);
    const MessageDerivatives parts = message_gradient_value(
        x, &u, saved[4], with_geometry, context->needs_input_grad(weights), MessageArguments::saved(context));
    const auto source = std::find_if(outputs.begin(), outputs.end(), [](const Tensor& t) { return t.requires_grad(); });
    const auto last = [&](const Tensor& value) {
      return value.defined() && source != outputs.end() ? last_derivative(value, *source, "message") : value;
    };
    return {last(parts.factors[radial]),
            last(parts.factors[angular]),
            last(parts.factors[h]),
            last(parts.factors[weights]),
            last(parts.out),
            Tensor(),
            Tensor(),
            Tensor()};
  }

  /// A list as `forward` returns it in the order of the factors; what it lacks is zero (of the weights: undefined).
  static Factors unpack(const variable_list& list, const Factors& x, bool with_geometry, bool with_weights) {
    Factors parts;
    parts[h] = list[0];
    parts[radial] = with_geometry ? list[1] : torch::zeros_like(x[radial]);
    parts[angular] = with_geometry ? list[2] : torch::zeros_like(x[angular]);
    if (with_weights) parts[weights] = list.back();
    return parts;
  }
};

class Message : public torch::autograd::Function<Message> {
 public:
  static Tensor forward(AutogradContext* context, const Tensor& radial_, const Tensor& angular_, const Tensor& h_,
                        const Tensor& weights_, const MessageArguments& arguments) {
    context->save_for_backward({radial_, angular_, h_, weights_});
    arguments.save(context);
    return message_value({radial_, angular_, h_, weights_}, arguments);
  }

  static variable_list backward(AutogradContext* context, variable_list outputs) {
    const auto x = context->get_saved_variables();
    const bool with_geometry = context->needs_input_grad(radial) || context->needs_input_grad(angular);
    const bool with_weights = context->needs_input_grad(weights);
    const variable_list parts = MessageGradient::apply(x[0], x[1], x[2], x[3], outputs[0], with_geometry, with_weights,
                                                       MessageArguments::saved(context));
    return {with_geometry ? parts[1] : Tensor(), with_geometry ? parts[2] : Tensor(), parts[0],
            with_weights ? parts.back() : Tensor(), Tensor()};
  }
};

Tensor message(const Tensor& radial_, const Tensor& angular_, const Tensor& h_, const Tensor& weights_,
               const Tensor& centers, const Tensor& neighbors, int64_t n_atoms, const Tensor& terms, const Tensor& couplings,
               std::optional<int64_t> n_outputs) {
  check_real(h_, "h");
  check_alike(radial_, "radial", h_, "h");
  check_alike(angular_, "angular", h_, "h");
  check_alike(weights_, "weights", h_, "h");
  check_shape(h_, "h", {-1, -1, -1});
  const int64_t n_edges = centers.numel();
  check_shape(radial_, "radial", {n_edges, -1});
  check_shape(angular_, "angular", {n_edges, -1});
  check_shape(weights_, "weights", {-1, radial_.size(1), h_.size(2)});
  check(radial_.size(1) <= max_radial,
        "radial: at most " + std::to_string(max_radial) + " functions, got " + std::to_string(radial_.size(1)));
  check(angular_.size(1) <= max_harmonics,
        "angular: at most " + std::to_string(max_harmonics) + " components, got " + std::to_string(angular_.size(1)));
  check(n_atoms >= 0, "n_atoms = " + std::to_string(n_atoms) + " must not be negative");
  check(!n_outputs || *n_outputs > 0, "n_outputs must be positive");
  const auto checked =
      checked_indices(h_, "h", {{"centers", centers, n_edges, n_atoms}, {"neighbors", neighbors, n_edges, h_.size(0)}});
  const MessageSizes sizes{weights_.size(0), angular_.size(1), n_outputs.value_or(angular_.size(1)), h_.size(1)};
  const MessageArguments arguments{edge_offsets(checked[0], n_atoms), checked[1], message_tables(terms, couplings, sizes),
                                   sizes.n_outputs};
  return Message::apply(radial_, angular_, h_, weights_, arguments);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(tesseral, library) {
  library.def(
      "message(Tensor radial, Tensor angular, Tensor h, Tensor weights, Tensor centers, Tensor neighbors, int n_atoms, "
      "Tensor terms, Tensor couplings, int? n_outputs=None) -> Tensor",
      &message);
}

}  // namespace tesseral::torch_ops
