// The rate of multiply-adds that this instruction set reaches on this machine, to compare the kernels with.
#include <algorithm>
#include <chrono>

#include "tesseral/operators.hpp"
#include "tesseral/rows.hpp"

namespace tesseral::TESSERAL_ISA {

template <class T>
double multiply_adds_per_second() {
  constexpr int n_chains = 12;  // more than the units can hold in flight, and few enough for the registers
  constexpr int64_t length = 20000;
  constexpr int n_runs = 200;  // the fastest counts: others may be interrupted
  Pack<T> chains[n_chains];
  for (int n = 0; n < n_chains; ++n) chains[n] = broadcast<T>(T(n));
  volatile T given = T(0.5);
  const Pack<T> factor = broadcast<T>(given), summand = broadcast<T>(given);
  double best = 0;
  for (int run = 0; run < n_runs; ++run) {
    const auto started = std::chrono::steady_clock::now();
    for (int64_t step = 0; step < length; ++step) {
      TESSERAL_UNROLL for (int n = 0; n < n_chains; ++n) chains[n] = chains[n] * factor + summand;
    }
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - started;
    best = std::max(best, static_cast<double>(length * n_chains * lanes<T>) / seconds.count());
  }
  for (int n = 0; n < n_chains; ++n) given = chains[n][0];
  return best;
}

template double multiply_adds_per_second<float>();
template double multiply_adds_per_second<double>();

}  // namespace tesseral::TESSERAL_ISA
