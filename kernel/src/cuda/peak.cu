// The rate of multiply-adds that the device reaches, to compare the kernels with: every thread works on a few chains of
// dependent ones, with enough threads to hide how long each takes.
#include <algorithm>
#include <chrono>

#include "kernels.hpp"
#include "multiprocessors.hpp"

namespace tesseral::cuda {
namespace {

constexpr int threads = 256, blocks_per_multiprocessor = 8, n_chains = 8, steps_at_once = 16;

/// `length`: a multiple of steps_at_once.
template <class T>
__global__ void multiply_adds(T factor, T summand, int length, T* out) {
  T chains[n_chains];
  for (int n = 0; n < n_chains; ++n) chains[n] = T(n);
  for (int done = 0; done < length; done += steps_at_once) {
    TESSERAL_UNROLL for (int step = 0; step < steps_at_once; ++step) {
      TESSERAL_UNROLL for (int n = 0; n < n_chains; ++n) chains[n] = chains[n] * factor + summand;
    }
  }
  T sum = 0;
  for (int n = 0; n < n_chains; ++n) sum += chains[n];
  out[global_thread()] = sum;
}

/// Of the device, not of one of its cores.
template <class T>
double multiply_adds_per_second() {
  const int blocks = multiprocessors() * blocks_per_multiprocessor;
  DeviceArray<T> out(static_cast<std::size_t>(blocks) * threads);
  const auto seconds_of = [&](int length) {
    check(cudaStreamSynchronize(current_stream()), "wait");
    const auto started = std::chrono::steady_clock::now();
    launch(multiply_adds<T>, blocks, threads, 0, T(0.5), T(0.5), length, out.data());
    check(cudaStreamSynchronize(current_stream()), "wait");
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  };
  int length = 256;
  while (seconds_of(length) < 4e-3 && length < (1 << 24)) length *= 2;  // long beside a launch
  double best = 0;
  for (int run = 0; run < 10; ++run) {  // the fastest counts: others may be interrupted
    best = std::max(best, static_cast<double>(blocks) * threads * n_chains * length / seconds_of(length));
  }
  return best;
}

}  // namespace

template <class T>
void add_peak(Kernels<T>& kernels) {
  kernels.multiply_adds_per_second = multiply_adds_per_second<T>;
}
TESSERAL_INSTANTIATE(add_peak)

}  // namespace tesseral::cuda
