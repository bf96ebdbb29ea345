// A fixed team of threads for the native engine (no OpenMP: hosts such as LAMMPS and torch bring their own).
#pragma once

#include <functional>
#include <memory>

namespace tesseral {

class ThreadPool {
 public:
  /// n_threads >= 1; the calling thread is one of them. Throws std::invalid_argument where the system refuses so many.
  explicit ThreadPool(int n_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const;
  /// Runs body(thread) on every thread and waits; rethrows the first exception.
  void run(const std::function<void(int thread)>& body);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace tesseral
