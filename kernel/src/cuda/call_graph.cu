#include <exception>

#include "call_graph.hpp"

namespace tesseral::cuda {

CallGraph::~CallGraph() {
  if (executable_) cudaGraphExecDestroy(executable_);
}

void CallGraph::run(const std::optional<CallKind>& kind, const std::function<void()>& work) {
  const bool again = kind && kind == before_;
  if (!again) ready_ = false;
  if (again && !ready_ && use_.failure.empty()) ready_ = capture(work);
  if (!ready_ || !launched()) work();
  last_ = kind;
}

bool CallGraph::launched() {
  const cudaError_t status = cudaGraphLaunch(executable_, current_stream());
  if (status == cudaSuccess) {
    ++use_.calls;
    return true;
  }
  ready_ = false;
  refuse("launch of a graph", status);
  return false;
}

/// Calls that are not allowed while a stream is captured, as those for memory, end the capture with an error. Calls of other
/// threads do not matter to it.
bool CallGraph::capture(const std::function<void()>& work) {
  cudaError_t status = cudaStreamBeginCapture(current_stream(), cudaStreamCaptureModeThreadLocal);
  if (status != cudaSuccess) {
    refuse("begin of a capture", status);
    return false;
  }
  try {
    work();
  } catch (const std::exception& error) {
    use_.failure = error.what();
  }
  cudaGraph_t graph = nullptr;
  status = cudaStreamEndCapture(current_stream(), &graph);
  if (status != cudaSuccess && use_.failure.empty()) refuse("capture", status);
  if (status != cudaSuccess) cudaGetLastError();
  const bool usable = use_.failure.empty() && take(graph);
  if (graph) cudaGraphDestroy(graph);
  return usable;
}

/// Makes the graph ready to be launched: by changes to the one before, which has the same nodes if only sizes have changed.
bool CallGraph::take(cudaGraph_t graph) {
  if (executable_) {
    cudaGraphExecUpdateResultInfo result;
    if (cudaGraphExecUpdate(executable_, graph, &result) == cudaSuccess) return true;
    cudaGetLastError();
    cudaGraphExecDestroy(executable_);
    executable_ = nullptr;
  }
  const cudaError_t status = cudaGraphInstantiate(&executable_, graph, 0);
  if (status == cudaSuccess) return true;
  executable_ = nullptr;
  refuse("making of a graph", status);
  return false;
}

void CallGraph::refuse(const char* what, cudaError_t status) {
  use_.failure = std::string(what) + ": " + cudaGetErrorString(status);
  cudaGetLastError();
}

}  // namespace tesseral::cuda
