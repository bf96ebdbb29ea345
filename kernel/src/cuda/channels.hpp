// Neighbouring channels in one thread: arrays that stay in registers (loops over them are unrolled), rows of channels.
#pragma once

#include <cstdint>

#include "kernels.hpp"

/// Before a loop that the device's compiler shall unroll so many times.
#ifdef __CUDACC__
#define TESSERAL_PRAGMA(text) _Pragma(#text)
#define TESSERAL_UNROLL_BY(count) TESSERAL_PRAGMA(unroll(count))
#else
#define TESSERAL_UNROLL_BY(count)
#endif

namespace tesseral::cuda {

template <class V>
constexpr bool is_dual = sizeof(V) > sizeof(Element<V>);

#if defined(__CUDACC__) || defined(TESSERAL_EMULATE)

__device__ inline int lane_of_warp() {
  return static_cast<int>(threadIdx.x) % warp_size;
}

/// Numbers that are read and written together.
template <class T, int n>
struct alignas(n * sizeof(T) < 16 ? n * sizeof(T) : 16) Numbers {
  T at[n];
};

template <class T, int n>
__device__ inline void load_numbers(const T* source, T (&target)[n]) {
  const auto numbers = *reinterpret_cast<const Numbers<T, n>*>(source);
  TESSERAL_UNROLL
  for (int c = 0; c < n; ++c) target[c] = numbers.at[c];
}
template <class T, int n>
__device__ inline void store_numbers(T* target, const T (&source)[n]) {
  Numbers<T, n> numbers;
  TESSERAL_UNROLL
  for (int c = 0; c < n; ++c) numbers.at[c] = source[c];
  *reinterpret_cast<Numbers<T, n>*>(target) = numbers;
}
/// Adds to neighbouring numbers of global memory.
template <class T, int n>
__device__ inline void add_numbers(T* target, const T (&amount)[n]) {
#ifdef TESSERAL_EMULATE
  if constexpr (sizeof(T) == 4 && (n == 2 || n == 4)) emulation::note_vector(target, n * sizeof(T));  // see below
#endif
  TESSERAL_UNROLL
  for (int c = 0; c < n; ++c) atomicAdd(target + c, amount[c]);
}
// of CUDA 12.1
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900 && (__CUDACC_VER_MAJOR__ > 12 || __CUDACC_VER_MINOR__ >= 1)
__device__ inline void add_numbers(float* target, const float (&amount)[2]) {
  atomicAdd(reinterpret_cast<float2*>(target), float2{amount[0], amount[1]});
}
__device__ inline void add_numbers(float* target, const float (&amount)[4]) {
  atomicAdd(reinterpret_cast<float4*>(target), float4{amount[0], amount[1], amount[2], amount[3]});
}
#endif
template <class V, int n>
__device__ inline void set_zero(V (&numbers)[n]) {
  TESSERAL_UNROLL
  for (int c = 0; c < n; ++c) numbers[c] = constant<V>(0);
}
template <class V, int m, int n>
__device__ inline void set_zero(V (&numbers)[m][n]) {
  TESSERAL_UNROLL
  for (int c = 0; c < m; ++c) set_zero(numbers[c]);
}
template <class V, int n>
__device__ inline void copy_numbers(const V (&source)[n], V (&target)[n]) {
  TESSERAL_UNROLL
  for (int c = 0; c < n; ++c) target[c] = source[c];
}
template <class V, int n>
__device__ inline void take_wanted(const V (&numbers)[n], Element<V> (&wanted)[n]) {
  TESSERAL_UNROLL
  for (int c = 0; c < n; ++c) wanted[c] = wanted_part(numbers[c]);
}

/// A row of n (possibly dual) numbers in shared memory.
template <int n, class V>
__device__ inline void load_shared(const V* source, V (&target)[n]) {
  using T = Element<V>;
  constexpr int per_load = n * sizeof(V) % 16 == 0 ? 16 / static_cast<int>(sizeof(T)) : 1;
  constexpr int size = n * static_cast<int>(sizeof(V) / sizeof(T));
  T numbers[size];
  TESSERAL_UNROLL
  for (int first = 0; first < size; first += per_load) {
    const auto loaded = *(reinterpret_cast<const Numbers<T, per_load>*>(source) + first / per_load);
    TESSERAL_UNROLL
    for (int c = 0; c < per_load; ++c) numbers[first + c] = loaded.at[c];
  }
  TESSERAL_UNROLL
  for (int c = 0; c < n; ++c) {
    if constexpr (is_dual<V>) {
      target[c] = {numbers[2 * c], numbers[2 * c + 1]};
    } else {
      target[c] = numbers[c];
    }
  }
}

/// The channels of a lane. Lanes beyond a row's end have none: they read those of others, but zeros as weights and
/// cotangents, so that they add nothing to sums over channels, and they write nothing.
template <int CH>
struct Channels {
  bool exist;
  int first;

  __device__ Channels(int channel_block, int row) : first((channel_block * warp_size + lane_of_warp()) * CH) {
    exist = first < row;
    if (!exist) first = row - CH;
  }
};

/// The lane's channels of a row of an array, from where it can be moved to others; null tangents are zeros.
template <class V, int CH>
class Row {
 public:
  using T = Element<V>;
  __device__ Row(const Field<const T>& field, const Channels<CH>& channels, int64_t offset)
      : values_(field.values + offset + channels.first),
        tangents_(is_dual<V> && field.tangents ? field.tangents + offset + channels.first : nullptr) {}
  __device__ void move(int64_t offset) {
    values_ += offset;
    if (is_dual<V> && tangents_) tangents_ += offset;
  }
  __device__ Row moved(int64_t offset) const {
    Row other = *this;
    other.move(offset);
    return other;
  }
  __device__ void load(V (&target)[CH]) const {
    T values[CH];
    load_numbers(values_, values);
    if constexpr (is_dual<V>) {
      T tangents[CH];
      set_zero(tangents);
      if (tangents_) load_numbers(tangents_, tangents);
      TESSERAL_UNROLL
      for (int c = 0; c < CH; ++c) target[c] = {values[c], tangents[c]};
    } else {
      copy_numbers(values, target);
    }
  }

 private:
  const T *values_, *tangents_;
};

#endif

}  // namespace tesseral::cuda
