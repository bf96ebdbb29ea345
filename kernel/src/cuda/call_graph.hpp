// The work of a call of the engine as a CUDA graph: one launch instead of one for each kernel, copy and fill.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>

#include "stream.hpp"
#include "tesseral/engine.hpp"

namespace tesseral::cuda {

/// Calls that are equal in this put the same work into the stream, with the same sizes and addresses: arrays of the engine
/// grow in calls of the engine only.
struct CallKind {
  int64_t list, n_atoms, n_centers;
  bool virials, neighbor_virials, total_virial;

  bool operator==(const CallKind&) const = default;
};

class CallGraph {
 public:
  CallGraph() = default;
  ~CallGraph();
  CallGraph(const CallGraph&) = delete;
  CallGraph& operator=(const CallGraph&) = delete;

  /// At the begin of a call, before memory is made for it: the graph is of no use to the next call unless `run` ends well.
  void begin() { before_ = std::exchange(last_, std::nullopt); }
  /// Something that a graph reads is elsewhere: this call is not a repeated one.
  void forget() { before_.reset(); }
  /// Gives the current stream, which is not the default one, what `work` gives it: by calling it, or where the call before
  /// was of the same kind by a graph that was captured from it. A kind that is not given never repeats. Where CUDA refuses a
  /// graph, work is called, and no graph is tried again.
  void run(const std::optional<CallKind>& kind, const std::function<void()>& work);

  GraphUse use() const { return use_; }

 private:
  std::optional<CallKind> last_, before_;
  bool ready_ = false;  // the graph is of the kind of the call before
  cudaGraphExec_t executable_ = nullptr;
  GraphUse use_;

  bool capture(const std::function<void()>& work);
  bool take(cudaGraph_t graph);
  bool launched();
  void refuse(const char* what, cudaError_t status);
};

}  // namespace tesseral::cuda
