#include "tesseral/thread_pool.hpp"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

namespace tesseral {
namespace {

/// How long a thread that waits looks again before it sleeps: longer than it takes to wake one, and than what a call of the
/// engine does on one thread between two runs.
constexpr std::chrono::microseconds patience{100};

/// Whether a condition becomes true soon; other threads that want the core get it meanwhile.
template <class Condition>
bool soon(const Condition& condition) {
  const auto end = std::chrono::steady_clock::now() + patience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::yield();
  }
  return true;
}

}  // namespace

struct ThreadPool::State {
  std::mutex mutex;
  std::condition_variable start, done;
  const std::function<void(int)>* body = nullptr;
  std::atomic<unsigned long long> generation = 0;  // changed, as `stop`, with the mutex held
  std::atomic<int> running = 0;
  std::atomic<bool> stop = false;
  std::exception_ptr error;
  std::vector<std::thread> threads;

  void finish() {
    {
      const std::lock_guard<std::mutex> lock(mutex);
      stop = true;
    }
    start.notify_all();
    for (std::thread& thread : threads) thread.join();
    threads.clear();
  }

  void guarded(int thread) {
    try {
      (*body)(thread);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex);
      if (!error) error = std::current_exception();
    }
  }

  void work(int thread) {
    unsigned long long seen = 0;
    const auto called = [&] { return stop || generation != seen; };
    while (true) {
      if (!soon(called)) {
        std::unique_lock<std::mutex> lock(mutex);
        start.wait(lock, called);
      }
      if (stop) return;
      seen = generation;
      guarded(thread);
      if (--running > 0) continue;
      {
        const std::lock_guard<std::mutex> lock(mutex);
      }  // a caller that has looked is asleep now
      done.notify_one();
    }
  }
};

ThreadPool::ThreadPool(int n_threads) : state_(std::make_unique<State>()) {
  try {
    for (int thread = 1; thread < n_threads; ++thread) {
      state_->threads.emplace_back([this, thread] { state_->work(thread); });
    }
  } catch (const std::system_error&) {
    const int started = size();
    state_->finish();
    throw std::invalid_argument("threads = " + std::to_string(n_threads) + ": the system starts no more than " +
                                std::to_string(started));
  }
}

ThreadPool::~ThreadPool() {
  state_->finish();
}

int ThreadPool::size() const {
  return static_cast<int>(state_->threads.size()) + 1;
}

void ThreadPool::run(const std::function<void(int)>& body) {
  State& state = *state_;
  const auto finished = [&] { return state.running == 0; };
  {
    const std::lock_guard<std::mutex> lock(state.mutex);
    state.body = &body;
    state.error = nullptr;
    state.running = static_cast<int>(state.threads.size());
    ++state.generation;
  }
  state.start.notify_all();
  state.guarded(0);
  if (!soon(finished)) {
    std::unique_lock<std::mutex> lock(state.mutex);
    state.done.wait(lock, finished);
  }
  if (state.error) std::rethrow_exception(state.error);
}

}  // namespace tesseral
