// The rates of multiply-adds and of memory that the device reaches, to compare the kernels with. Multiply-adds: every thread
// works on a few chains of dependent ones, with enough threads to hide how long each takes. Memory: a copy that is too large
// for the caches.
#include <algorithm>
#include <chrono>

#include "kernels.hpp"
#include "multiprocessors.hpp"
#include "peak.hpp"

namespace tesseral::cuda {
namespace {

/// Bytes that are read and as many that are written; several times the largest cache.
#ifdef TESSERAL_EMULATE
constexpr std::size_t most_copied = std::size_t{1} << 16;
#else
constexpr std::size_t most_copied = std::size_t{1} << 30;
#endif
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

/// 16 bytes, that a thread copies at once.
struct alignas(16) Piece {
  uint64_t halves[2];
};

__global__ void pieces_copied(const Piece* source, int64_t n, int times, Piece* target) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int time = 0; time < times; ++time) {
    for (int64_t k = global_thread(); k < n; k += step) target[k] = source[k];
  }
}

/// Until what `work` gives the stream is done.
template <class Work>
double seconds_of(const Work& work) {
  wait();
  const auto started = std::chrono::steady_clock::now();
  work();
  wait();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
}

/// Of the device, not of one of its cores.
template <class T>
double multiply_adds_per_second() {
  const int blocks = multiprocessors() * blocks_per_multiprocessor;
  DeviceArray<T> out(static_cast<std::size_t>(blocks) * threads);
  const auto seconds = [&](int length) {
    return seconds_of([&] { launch(multiply_adds<T>, blocks, threads, 0, T(0.5), T(0.5), length, out.data()); });
  };
  int length = 256;
  while (seconds(length) < 4e-3 && length < (1 << 24)) length *= 2;  // long beside a launch
  double best = 0;
  for (int run = 0; run < 10; ++run) {  // the fastest counts: others may be interrupted
    best = std::max(best, static_cast<double>(blocks) * threads * n_chains * length / seconds(length));
  }
  return best;
}

}  // namespace

double bytes_per_second() {
  std::size_t size = most_copied / sizeof(Piece), free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "memory");
  size = std::min(size, free / (4 * sizeof(Piece)));
  DeviceArray<Piece> source(size), target(size);
  source.fill_zero();
  const int blocks = multiprocessors() * blocks_per_multiprocessor;
  const auto seconds = [&](int times) {
    return seconds_of(
        [&] { launch(pieces_copied, blocks, threads, 0, source.data(), static_cast<int64_t>(size), times, target.data()); });
  };
  int times = 1;
  while (seconds(times) < 4e-3 && times < 1024) times *= 2;
  double best = 0;
  for (int run = 0; run < 10; ++run) best = std::max(best, 2.0 * size * sizeof(Piece) * times / seconds(times));
  return best;
}

template <class T>
void add_peak(Kernels<T>& kernels) {
  kernels.multiply_adds_per_second = multiply_adds_per_second<T>;
}
TESSERAL_INSTANTIATE(add_peak)

}  // namespace tesseral::cuda
