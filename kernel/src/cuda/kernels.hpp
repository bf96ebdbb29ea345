// The operators on a device: each translation unit adds its own to Kernels<T>, see operators.hpp for what they do. Arrays
// lie on the device; trees, tables and blocks on the host, from where they are copied once (tables.hpp).
#pragma once

#include "device.hpp"
#include "tesseral/operators.hpp"
#include "tesseral/pack.hpp"

/// Instantiates one of the functions below, for use by library.cu.
#define TESSERAL_INSTANTIATE(add)     \
  template void add(Kernels<float>&); \
  template void add(Kernels<double>&);

namespace tesseral::cuda {

template <class T>
void add_harmonics(Kernels<T>&);
template <class T>
void add_radial(Kernels<T>&);  // and the repulsion
template <class T>
void add_density(Kernels<T>&);
template <class T>
void add_mix(Kernels<T>&);
template <class T>
void add_row_maps(Kernels<T>&);
template <class T>
void add_product(Kernels<T>&);
template <class T>
void add_message(Kernels<T>&);
template <class T>
void add_peak(Kernels<T>&);

/// Of a number itself, of a dual its tangent.
template <class T>
TESSERAL_INLINE T wanted_part(const T& x) {
  return x;
}
template <class T>
TESSERAL_INLINE T wanted_part(const Dual<T>& x) {
  return x.tangent;
}

/// Element n of an array, or with V = Dual<T> of an array and its tangents.
template <class V>
__device__ inline V element(const Element<V>* values, const Element<V>* tangents, int64_t n) {
  if constexpr (sizeof(V) > sizeof(Element<V>)) {
    return {values[n], tangents[n]};
  } else {
    return values[n];
  }
}

}  // namespace tesseral::cuda
