// SIMD packs and dual numbers: the two scalar types that every per-edge and per-atom function is written for.
//
// A translation unit that includes this header defines TESSERAL_ISA (a namespace name) and TESSERAL_VECTOR_BYTES
// before; the same source is compiled once per instruction set and chosen at run time (dispatch.cpp). Everything
// lives in that namespace, so that the linker never mixes code of two instruction sets. With TESSERAL_SCALAR (by
// src/cuda/device.hpp) a pack is a single number, that of one thread of a GPU.
#pragma once

#include <cmath>
#include <cstdint>

#ifdef TESSERAL_SCALAR
#define TESSERAL_INLINE __host__ __device__ inline
#define TESSERAL_ALWAYS_INLINE __host__ __device__ __forceinline__
#else
#define TESSERAL_INLINE inline
#define TESSERAL_ALWAYS_INLINE [[gnu::always_inline]] inline
#endif
/// Before a loop over a small constant number of packs, which shall stay in registers. Compilers for the processor that see
/// the code of a device need none.
#if defined(__CUDA_ARCH__)
#define TESSERAL_UNROLL _Pragma("unroll")
#elif defined(TESSERAL_SCALAR)
#define TESSERAL_UNROLL
#else
#define TESSERAL_UNROLL _Pragma("GCC unroll 16")
#endif

namespace tesseral::TESSERAL_ISA {

#ifdef TESSERAL_SCALAR
template <class T>
using Pack = T;

template <class T>
constexpr int lanes = 1;
#else
template <class T>
struct PackOf {
  typedef T type __attribute__((vector_size(TESSERAL_VECTOR_BYTES)));
};
template <class T>
using Pack = typename PackOf<T>::type;

template <class T>
constexpr int lanes = TESSERAL_VECTOR_BYTES / static_cast<int>(sizeof(T));
#endif

/// Smallest multiple of the lane count that is not below n.
template <class T>
constexpr int padded(int n) {
  return (n + lanes<T> - 1) / lanes<T> * lanes<T>;
}

#ifdef TESSERAL_SCALAR
template <class T>
TESSERAL_INLINE T load(const T* source) {
  return *source;
}
template <class T>
TESSERAL_INLINE void store(T* target, T pack) {
  *target = pack;
}
#else
template <class T>
inline Pack<T> load(const T* source) {
  Pack<T> pack;
  __builtin_memcpy(&pack, source, sizeof pack);
  return pack;
}
template <class T>
inline void store(T* target, const Pack<T>& pack) {
  __builtin_memcpy(target, &pack, sizeof pack);
}
#endif
template <class T>
TESSERAL_INLINE Pack<T> broadcast(T value) {
  return Pack<T>{} + value;
}

/// First-order forward-mode number: value + tangent * epsilon. Applied to a gradient it gives Hessian-vector products.
template <class V>
struct Dual {
  V value;
  V tangent;
};

#ifdef TESSERAL_SCALAR
template <class V>
struct ElementOf {
  using type = V;
};
#else
template <class V>
struct ElementOf {
  using type = __typeof__(V{}[0] + V{}[0]);
};
#endif
template <class V>
struct ElementOf<Dual<V>> {
  using type = typename ElementOf<V>::type;
};
template <class V>
using Element = typename ElementOf<V>::type;

template <class V>
TESSERAL_INLINE Dual<V> operator+(const Dual<V>& a, const Dual<V>& b) {
  return {a.value + b.value, a.tangent + b.tangent};
}
template <class V>
TESSERAL_INLINE Dual<V> operator-(const Dual<V>& a, const Dual<V>& b) {
  return {a.value - b.value, a.tangent - b.tangent};
}
template <class V>
TESSERAL_INLINE Dual<V> operator*(const Dual<V>& a, const Dual<V>& b) {
  return {a.value * b.value, a.value * b.tangent + a.tangent * b.value};
}
template <class V>
TESSERAL_INLINE Dual<V> operator/(const Dual<V>& a, const Dual<V>& b) {
  const V quotient = a.value / b.value;
  return {quotient, (a.tangent - quotient * b.tangent) / b.value};
}
template <class V>
TESSERAL_INLINE Dual<V> operator+(const Dual<V>& a, Element<V> b) {
  return {a.value + b, a.tangent};
}
template <class V>
TESSERAL_INLINE Dual<V> operator+(Element<V> a, const Dual<V>& b) {
  return {a + b.value, b.tangent};
}
template <class V>
TESSERAL_INLINE Dual<V> operator-(const Dual<V>& a, Element<V> b) {
  return {a.value - b, a.tangent};
}
template <class V>
TESSERAL_INLINE Dual<V> operator-(Element<V> a, const Dual<V>& b) {
  return {a - b.value, -b.tangent};
}
template <class V>
TESSERAL_INLINE Dual<V> operator*(Element<V> a, const Dual<V>& b) {
  return {a * b.value, a * b.tangent};
}
template <class V>
TESSERAL_INLINE Dual<V> operator*(const Dual<V>& a, Element<V> b) {
  return b * a;
}
template <class V>
TESSERAL_INLINE Dual<V> operator*(const Dual<V>& a, const V& b) {
  return {a.value * b, a.tangent * b};
}
template <class V>
TESSERAL_INLINE Dual<V>& operator+=(Dual<V>& a, const Dual<V>& b) {
  a.value += b.value;
  a.tangent += b.tangent;
  return a;
}

#ifdef TESSERAL_SCALAR
template <class V>
TESSERAL_INLINE V square_root(const V& x) {
  return sqrt(x);
}
template <class V>
TESSERAL_INLINE V exponential(const V& x) {
  return exp(x);
}
/// The number in one lane.
template <class V>
TESSERAL_INLINE Element<V> lane_of(const V& x, int) {
  return x;
}
#else
template <class V>
TESSERAL_INLINE V square_root(const V& x) {
  V root;
  for (int lane = 0; lane < static_cast<int>(sizeof(V) / sizeof(x[0])); ++lane) {
    if constexpr (sizeof(x[0]) == sizeof(float)) {
      root[lane] = __builtin_sqrtf(x[lane]);
    } else {
      root[lane] = __builtin_sqrt(x[lane]);
    }
  }
  return root;
}
/// exp(x) by x = n ln 2 + r and the Taylor polynomial of exp(r), |r| <= ln(2)/2; relative error near rounding.
template <class V>
TESSERAL_INLINE V exponential(const V& x) {
  using T = Element<V>;
  constexpr bool single = sizeof(T) == sizeof(float);
  const T low = single ? T(-87) : T(-708), high = single ? T(88) : T(709);
  V bounded = x < low ? V{} + low : x;
  bounded = bounded > high ? V{} + high : bounded;
  const V scaled = bounded * T(1.4426950408889634074);
  auto count = __builtin_convertvector(scaled + (scaled < T(0) ? V{} - T(0.5) : V{} + T(0.5)), __typeof__(x < x));
  const V whole = __builtin_convertvector(count, V);
  // ln 2 in two parts, so that the subtraction is exact (Cody and Waite).
  const V rest = single ? (bounded - whole * T(0.693359375)) - whole * T(-2.12194440e-4)
                        : (bounded - whole * T(6.93145751953125e-1)) - whole * T(1.42860682030941723212e-6);
  constexpr int degree = single ? 7 : 13;
  V sum = V{} + T(1);
  for (int n = degree; n > 0; --n) sum = T(1) + sum * rest * (T(1) / T(n));
  constexpr int mantissa = single ? 23 : 52, bias = single ? 127 : 1023;
  const auto exponent = (count + bias) << mantissa;
  V power;
  __builtin_memcpy(&power, &exponent, sizeof power);
  return sum * power;
}
/// The number in one lane.
template <class V>
inline Element<V> lane_of(const V& x, int lane) {
  return x[lane];
}
#endif
template <class V>
TESSERAL_INLINE Dual<V> square_root(const Dual<V>& x) {
  const V root = square_root(x.value);
  return {root, x.tangent / (Element<V>(2) * root)};
}

template <class V>
TESSERAL_INLINE Dual<V> exponential(const Dual<V>& x) {
  const V value = exponential(x.value);
  return {value, value * x.tangent};
}

template <class V>
TESSERAL_INLINE const V& value_of(const V& x) {
  return x;
}
template <class V>
TESSERAL_INLINE const V& value_of(const Dual<V>& x) {
  return x.value;
}

/// x where mask holds (a lane-wise comparison result), y elsewhere.
template <class V, class Mask>
TESSERAL_INLINE V select(const Mask& mask, const V& x, const V& y) {
  return mask ? x : y;
}
template <class V, class Mask>
TESSERAL_INLINE Dual<V> select(const Mask& mask, const Dual<V>& x, const Dual<V>& y) {
  return {mask ? x.value : y.value, mask ? x.tangent : y.tangent};
}

/// A pack of constants as D (a pack or a dual with zero tangent).
template <class D, class V>
TESSERAL_INLINE D lift_to(const V& pack) {
  if constexpr (sizeof(D) == sizeof(V)) {
    return pack;
  } else {
    return {pack, V{}};
  }
}

template <class V>
TESSERAL_INLINE V constant(Element<V> value) {
  return V{} + value;
}

}  // namespace tesseral::TESSERAL_ISA
