// How long a stream works, by what it does: while a profile is made there are events around each kernel, copy and fill.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "stream.hpp"
#include "tesseral/engine.hpp"

namespace tesseral::cuda {

class Profile {
 public:
  Profile() = default;
  Profile(const Profile&) = delete;
  Profile& operator=(const Profile&) = delete;
  ~Profile() {
    for (const Span& span : spans_) {
      cudaEventDestroy(span.begin);
      cudaEventDestroy(span.end);
    }
  }

  /// What the current stream is given between the two is called `name`, a literal.
  void begin(const char* name) {
    if (used_ == spans_.size()) {
      Span& span = spans_.emplace_back();
      check(cudaEventCreate(&span.begin), "event");
      check(cudaEventCreate(&span.end), "event");
    }
    spans_[used_].name = name;
    check(cudaEventRecord(spans_[used_].begin, current_stream()), "event");
  }
  void end() { check(cudaEventRecord(spans_[used_++].end, current_stream()), "event"); }

  /// Adds up the times since the last call; the stream has been waited for.
  void collect() {
    for (std::size_t n = 0; n < used_; ++n) {
      float milliseconds = 0;
      check(cudaEventElapsedTime(&milliseconds, spans_[n].begin, spans_[n].end), "time between events");
      ProfileRow& row = rows_.try_emplace(spans_[n].name, ProfileRow{spans_[n].name, 0, 0.0}).first->second;
      ++row.calls;
      row.seconds += 1e-3 * static_cast<double>(milliseconds);
    }
    used_ = 0;
  }
  std::vector<ProfileRow> rows() const {
    std::vector<ProfileRow> rows;
    for (const auto& [name, row] : rows_) rows.push_back(row);
    return rows;
  }

 private:
  struct Span {
    const char* name = nullptr;
    cudaEvent_t begin = nullptr, end = nullptr;
  };
  std::vector<Span> spans_;
  std::size_t used_ = 0;
  std::map<std::string, ProfileRow> rows_;
};

/// The profile that this thread makes, or null.
inline Profile*& current_profile() {
  static thread_local Profile* profile = nullptr;
  return profile;
}
/// What this thread's kernels are called in it.
inline const char*& current_label() {
  static thread_local const char* label = "other kernels";
  return label;
}

/// Names the kernels of this thread as long as it lives.
class Label {
 public:
  explicit Label(const char* name) : before_(current_label()) { current_label() = name; }
  ~Label() { current_label() = before_; }
  Label(const Label&) = delete;
  Label& operator=(const Label&) = delete;

 private:
  const char* before_;
};

/// Makes `profile` (none: null) this thread's as long as it lives.
class ProfileScope {
 public:
  explicit ProfileScope(Profile* profile) { current_profile() = profile; }
  ~ProfileScope() { current_profile() = nullptr; }
  ProfileScope(const ProfileScope&) = delete;
  ProfileScope& operator=(const ProfileScope&) = delete;
};

/// Runs `work`, which gives the current stream something to do that a profile calls `name`.
template <class Work>
void profiled(const char* name, const Work& work) {
  Profile* profile = current_profile();
  if (!profile) return work();
  profile->begin(name);
  work();
  profile->end();
}

}  // namespace tesseral::cuda
