// Loads and stores of 16 bytes at once, and of single numbers where rows are not made of whole vectors.
#pragma once

#include "kernels.hpp"
#include "unroll.hpp"

namespace tesseral::cuda {

/// Numbers of 16 bytes.
template <class T>
constexpr int vector_size = 16 / sizeof(T);

template <class T>
struct alignas(16) Vector {
  T of[vector_size<T>];
};

/// Rows of this length are made of whole vectors, if the first begins with one as arrays do.
template <class T>
constexpr bool whole_vectors(int64_t row) {
  return row % vector_size<T> == 0;
}

#if defined(__CUDACC__) || defined(TESSERAL_EMULATE)

__device__ inline int lesser(int a, int b) {
  return a < b ? a : b;
}

/// The first `count` of the numbers from `source` on, and zeros.
template <class T>
__device__ inline Vector<T> load_vector(const T* source, int count, bool whole) {
  Vector<T> vector{};
  if (whole) {
    if (count > 0) vector = *reinterpret_cast<const Vector<T>*>(source);
  } else {
    TESSERAL_UNROLL for (int n = 0; n < vector_size<T>; ++n) {
      if (n < count) vector.of[n] = source[n];
    }
  }
  return vector;
}

template <class T>
__device__ inline void store_vector(T* target, const Vector<T>& vector, int count, bool whole) {
  if (whole) {
    if (count > 0) *reinterpret_cast<Vector<T>*>(target) = vector;
  } else {
    TESSERAL_UNROLL for (int n = 0; n < vector_size<T>; ++n) {
      if (n < count) target[n] = vector.of[n];
    }
  }
}

#endif

}  // namespace tesseral::cuda
