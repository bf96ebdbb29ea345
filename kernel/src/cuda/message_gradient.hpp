// Pieces of the gradient of messages; V = T, or Dual<T> for the tangents.
#pragma once

#include "kernels.hpp"

namespace tesseral::cuda {

/// By h (added to) and, where outputs has them, by the radial functions and harmonics of each edge.
template <class V>
void message_edge_gradients(const MessageShape<Element<V>>& shape, const MessageInputs<Element<V>>& inputs,
                            const Element<V>* G, Range atoms, const MessageOutputs<Element<V>>& outputs);

/// The same, faster and with the geometry's gradients, for the usual messages of scalars to degrees 0 .. l_max = 1, 2 or 3
/// with few radial functions. Does nothing and returns false for others.
template <class V>
bool scalar_edge_gradients(const MessageShape<Element<V>>& shape, const MessageInputs<Element<V>>& inputs,
                           const Element<V>* G, Range atoms, const MessageOutputs<Element<V>>& outputs);

/// By the weights, added to.
template <class V>
void message_weight_gradients(const MessageShape<Element<V>>& shape, const MessageInputs<Element<V>>& inputs,
                              const Element<V>* G, Range atoms, Element<V>* out);

}  // namespace tesseral::cuda
