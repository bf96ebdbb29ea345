#include "tesseral/thread_pool.hpp"

#include <condition_variable>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

namespace tesseral {

struct ThreadPool::State {
  std::mutex mutex;
  std::condition_variable start, done;
  const std::function<void(int)>* body = nullptr;
  unsigned long long generation = 0;
  int running = 0;
  bool stop = false;
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
    std::unique_lock<std::mutex> lock(mutex);
    while (true) {
      start.wait(lock, [&] { return stop || generation != seen; });
      if (stop) return;
      seen = generation;
      lock.unlock();
      guarded(thread);
      lock.lock();
      if (--running == 0) done.notify_one();
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
  {
    const std::lock_guard<std::mutex> lock(state.mutex);
    state.body = &body;
    state.error = nullptr;
    state.running = static_cast<int>(state.threads.size());
    ++state.generation;
  }
  state.start.notify_all();
  state.guarded(0);
  std::unique_lock<std::mutex> lock(state.mutex);
  state.done.wait(lock, [&] { return state.running == 0; });
  if (state.error) std::rethrow_exception(state.error);
}

}  // namespace tesseral
