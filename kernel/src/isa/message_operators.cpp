// Loops over atoms around the messages of message.hpp, compiled once per instruction set like operators.cpp.
#include <memory>

#include "tesseral/density.hpp"
#include "tesseral/message.hpp"

namespace tesseral::TESSERAL_ISA {
namespace {

/// A pack of edges with copies of their functions in lanes, and the working array of the terms.
template <class V>
class MessagePack {
 public:
  using T = Element<V>;

  MessagePack(const MessageShape<T>& shape, const MessageInputs<T>& inputs)
      : shape_(shape), inputs_(inputs), scratch_(new V[shape.table->entries.size()]) {}

  MessageWeights<V> weights() const { return {shape_, inputs_.weights, scratch_.get()}; }

  const MessageEdges<V>& take(const Lanes<T>& pack) {
    edges_.count = pack.count;
    edges_.radial = radial_;
    edges_.angular = angular_;
    for (int lane = 0; lane < pack.count; ++lane) {
      const int64_t edge = pack.edge[lane];
      take_row(inputs_.radial, edge, shape_.n_radial, lane, radial_);
      take_row(inputs_.angular, edge, shape_.n_harmonics, lane, angular_);
      const int64_t offset = inputs_.neighbors[edge] * shape_.n_components * shape_.row;
      edges_.h[lane].values = inputs_.h.values + offset;
      edges_.h[lane].tangents = inputs_.h.tangents ? inputs_.h.tangents + offset : nullptr;
    }
    return edges_;
  }

 private:
  const MessageShape<T>& shape_;
  const MessageInputs<T>& inputs_;
  std::unique_ptr<V[]> scratch_;
  V radial_[max_radial] = {}, angular_[max_harmonics] = {};
  MessageEdges<V> edges_;

  static void take_row(const Field<const T>& field, int64_t edge, int size, int lane, V* target) {
    const T* values = field.values + edge * size;
    for (int n = 0; n < size; ++n) {
      if constexpr (sizeof(V) > sizeof(Pack<T>)) {
        target[n].value[lane] = values[n];
        target[n].tangent[lane] = field.tangents[edge * size + n];
      } else {
        target[n][lane] = values[n];
      }
    }
  }
};

template <class T>
void fill_zero(T* target, int64_t size) {
  for (int64_t k = 0; k < size; ++k) target[k] = T(0);
}

template <class V, bool with_geometry, bool with_weights>
void gradient_of_atoms(const MessageShape<Element<V>>& shape, const MessageInputs<Element<V>>& inputs, const Element<V>* G,
                       Range atoms, const MessageOutputs<Element<V>>& outputs) {
  using T = Element<V>;
  const int64_t size = static_cast<int64_t>(shape.n_outputs) * shape.row;
  MessagePack<V> pack_of_edges(shape, inputs);
  MessageGradients<T> gradients;
  gradients.weights = outputs.weights;
  for (int64_t i = atoms.begin; i < atoms.end; ++i) {
    if (sizeof(V) > sizeof(Pack<T>)) {
      gradients.out = outputs.out + i * size;
      fill_zero(gradients.out, size);
    }
    for_each_pack<T>(inputs.first[i], inputs.first[i + 1], [&](const Lanes<T>& pack) {
      const MessageEdges<V>& edges = pack_of_edges.take(pack);
      for (int lane = 0; lane < pack.count; ++lane) {
        const int64_t h_row = inputs.neighbors[pack.edge[lane]] - outputs.first_row;
        gradients.h[lane] = outputs.h + h_row * shape.n_components * shape.row;
      }
      add_message_gradient<V, with_geometry, with_weights>(pack_of_edges.weights(), edges, G + i * size, gradients);
      if constexpr (with_geometry) {
        for (int lane = 0; lane < pack.count; ++lane) {
          const int64_t edge = pack.edge[lane];
          for (int lm = 0; lm < shape.n_harmonics; ++lm) {
            outputs.angular[edge * shape.n_harmonics + lm] = gradients.geometry[lm][lane];
          }
          for (int q = 0; q < shape.n_radial; ++q) {
            outputs.radial[edge * shape.n_radial + q] = gradients.geometry[shape.n_harmonics + q][lane];
          }
        }
      }
    });
  }
}

template <class V>
void gradient_of_wanted(const MessageShape<Element<V>>& shape, const MessageInputs<Element<V>>& inputs, const Element<V>* G,
                        Range atoms, const MessageOutputs<Element<V>>& outputs) {
  if (outputs.radial) {
    return outputs.weights ? gradient_of_atoms<V, true, true>(shape, inputs, G, atoms, outputs)
                           : gradient_of_atoms<V, true, false>(shape, inputs, G, atoms, outputs);
  }
  return outputs.weights ? gradient_of_atoms<V, false, true>(shape, inputs, G, atoms, outputs)
                         : gradient_of_atoms<V, false, false>(shape, inputs, G, atoms, outputs);
}

}  // namespace

template <class T>
void message(const MessageShape<T>& shape, const MessageInputs<T>& inputs, Range atoms, T* out) {
  const int64_t size = static_cast<int64_t>(shape.n_outputs) * shape.row;
  MessagePack<Pack<T>> pack_of_edges(shape, inputs);
  for (int64_t i = atoms.begin; i < atoms.end; ++i) {
    fill_zero(out + i * size, size);
    for_each_pack<T>(inputs.first[i], inputs.first[i + 1], [&](const Lanes<T>& pack) {
      add_message<Pack<T>>(pack_of_edges.weights(), pack_of_edges.take(pack), out + i * size);
    });
  }
}

template <class T>
void message_gradient(const MessageShape<T>& shape, const MessageInputs<T>& inputs, const T* G, Range atoms,
                      const MessageOutputs<T>& outputs) {
  if (inputs.h.tangents) return gradient_of_wanted<Dual<Pack<T>>>(shape, inputs, G, atoms, outputs);
  gradient_of_wanted<Pack<T>>(shape, inputs, G, atoms, outputs);
}

template void message<float>(const MessageShape<float>&, const MessageInputs<float>&, Range, float*);
template void message<double>(const MessageShape<double>&, const MessageInputs<double>&, Range, double*);
template void message_gradient<float>(const MessageShape<float>&, const MessageInputs<float>&, const float*, Range,
                                      const MessageOutputs<float>&);
template void message_gradient<double>(const MessageShape<double>&, const MessageInputs<double>&, const double*, Range,
                                       const MessageOutputs<double>&);

}  // namespace tesseral::TESSERAL_ISA
