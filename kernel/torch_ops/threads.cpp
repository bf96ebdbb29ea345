// The team of threads of the torch operators. Not at::parallel_for: outside torch's own libraries it runs on one thread
// unless the very OpenMP library that torch brings is linked too.
#include <unistd.h>

#include <memory>
#include <mutex>

#include "place.hpp"
#include "tesseral/thread_pool.hpp"

namespace tesseral::torch_ops {
namespace {

struct Team {
  std::mutex mutex;  // held while the team works
  std::unique_ptr<ThreadPool> threads;
  pid_t process = 0;

  /// The threads, of which there are so many; in a forked process those of its parent are not there.
  ThreadPool& of_size(int n_threads) {
    if (process != getpid()) threads.release();
    if (!threads || threads->size() != n_threads) threads = std::make_unique<ThreadPool>(n_threads);
    process = getpid();
    return *threads;
  }
};

}  // namespace

void run_tasks(int64_t n_tasks, const std::function<void(int64_t)>& task) {
  if (n_tasks == 1) return task(0);
  static Team& team = *new Team;  // never destroyed: a forked process could not join the threads when it ends
  std::unique_lock<std::mutex> lock(team.mutex, std::try_to_lock);
  if (!lock) {  // another thread of the host has the team
    for (int64_t n = 0; n < n_tasks; ++n) task(n);
    return;
  }
  team.of_size(at::get_num_threads()).run([&](int thread) {
    if (thread < n_tasks) task(thread);
  });
}

}  // namespace tesseral::torch_ops
