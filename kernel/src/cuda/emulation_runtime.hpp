// The few calls of CUDA's runtime that the sources use, on the processor. What a stream is given is done at once, or while
// the stream is captured put into a graph, a list of functions.
#pragma once

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0, cudaErrorMemoryAllocation = 2, cudaErrorNoDevice = 100,
                      cudaErrorStreamCaptureUnsupported = 900;
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2 };

using cudaGraph_t = std::vector<std::function<void()>>*;
using cudaGraphExec_t = cudaGraph_t;
struct EmulatedStream {
  bool captured = false, broken = false;
  std::vector<std::function<void()>> work;  // since the capture began
};
using cudaStream_t = EmulatedStream*;

/// Tests set it, to see what happens where CUDA refuses a capture: 1 at its begin, 2 at its end, 3 the launch of a graph.
extern "C" {
__attribute__((used, visibility("default"))) inline int tesseral_emulation_refuses = 0;
}
/// Whether kernels may read and write memory that is not of cudaMalloc: tensors of torch, which are the processor's.
extern "C" {
__attribute__((used, visibility("default"))) inline int tesseral_emulation_foreign_memory = 1;
}

namespace tesseral::cuda::emulation {

constexpr std::size_t all_memory = std::size_t{16} << 30;
/// Beyond each allocation, where nothing is.
constexpr std::size_t guard_bytes = 256;
// of emulation_checks.cpp
void note_allocation(void* pointer, std::size_t size);
void forget_allocation(void* pointer);
std::size_t allocated_bytes();
void note_copy(const void* pointer, std::size_t size);

/// The stream that this thread captures, or null.
inline EmulatedStream*& captured_stream() {
  static thread_local EmulatedStream* stream = nullptr;
  return stream;
}
/// What must not be called during a capture ends it.
inline cudaError_t outside_a_capture() {
  if (!captured_stream()) return cudaSuccess;
  captured_stream()->broken = true;
  return cudaErrorStreamCaptureUnsupported;
}

inline void submit(cudaStream_t stream, std::function<void()> work) {
  if (stream && stream->captured) return stream->work.push_back(std::move(work));
  work();
}

}  // namespace tesseral::cuda::emulation

inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorStreamCaptureUnsupported ? "operation not permitted when stream is capturing" : "out of memory";
}
inline cudaError_t cudaGetLastError() {
  return cudaSuccess;
}

// ---- memory ----

inline cudaError_t cudaMalloc(void** pointer, std::size_t size) {
  if (const cudaError_t error = tesseral::cuda::emulation::outside_a_capture()) return error;
  *pointer = std::malloc(size + tesseral::cuda::emulation::guard_bytes);
  if (!*pointer) return cudaErrorMemoryAllocation;
  std::memset(*pointer, 0xff, size);  // not a number: what is read before it is written shows
  tesseral::cuda::emulation::note_allocation(*pointer, size);
  return cudaSuccess;
}
inline cudaError_t cudaFree(void* pointer) {
  if (const cudaError_t error = tesseral::cuda::emulation::outside_a_capture()) return error;
  tesseral::cuda::emulation::forget_allocation(pointer);
  std::free(pointer);
  return cudaSuccess;
}
inline cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  *total = tesseral::cuda::emulation::all_memory;
  *free = *total - tesseral::cuda::emulation::allocated_bytes();
  return cudaSuccess;
}
constexpr unsigned cudaHostAllocDefault = 0;
inline cudaError_t cudaHostAlloc(void** pointer, std::size_t size, unsigned) {
  if (const cudaError_t error = tesseral::cuda::emulation::outside_a_capture()) return error;
  *pointer = std::malloc(size);
  return *pointer ? cudaSuccess : cudaErrorMemoryAllocation;
}
inline cudaError_t cudaFreeHost(void* pointer) {
  std::free(pointer);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* target, const void* source, std::size_t size, cudaMemcpyKind kind,
                                   cudaStream_t stream) {
  tesseral::cuda::emulation::submit(stream, [=] {
    if (kind != cudaMemcpyDeviceToHost) tesseral::cuda::emulation::note_copy(target, size);
    if (kind != cudaMemcpyHostToDevice) tesseral::cuda::emulation::note_copy(source, size);
    std::memcpy(target, source, size);
  });
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* target, int value, std::size_t size, cudaStream_t stream) {
  tesseral::cuda::emulation::submit(stream, [=] {
    tesseral::cuda::emulation::note_copy(target, size);
    std::memset(target, value, size);
  });
  return cudaSuccess;
}

// ---- devices, streams, events ----

inline cudaError_t cudaGetDeviceCount(int* count) {
  const char* status = std::getenv("TESSERAL_EMULATED_STATUS");  // to test what is said of CUDA's errors
  *count = status ? 0 : 1;
  return status ? std::atoi(status) : cudaSuccess;
}
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int) {
  return cudaSuccess;
}
constexpr int cudaDevAttrMultiProcessorCount = 16;
inline cudaError_t cudaDeviceGetAttribute(int* value, int, int) {
  *value = 1;
  return cudaSuccess;
}
constexpr unsigned cudaStreamNonBlocking = 1;
inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new EmulatedStream;
  return cudaSuccess;
}
inline cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) {
  return tesseral::cuda::emulation::outside_a_capture();
}

using cudaEvent_t = std::chrono::steady_clock::time_point*;
inline cudaError_t cudaEventCreate(cudaEvent_t* event) {
  *event = new std::chrono::steady_clock::time_point;
  return cudaSuccess;
}
inline cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
inline cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
  *event = std::chrono::steady_clock::now();
  return cudaSuccess;
}
inline cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  *milliseconds = std::chrono::duration<float, std::milli>(*end - *begin).count();
  return cudaSuccess;
}

// ---- graphs ----

constexpr int cudaStreamCaptureModeThreadLocal = 1;
inline cudaError_t cudaStreamBeginCapture(cudaStream_t stream, int) {
  if (!stream || tesseral_emulation_refuses == 1) return cudaErrorStreamCaptureUnsupported;
  *stream = {true, false, {}};
  tesseral::cuda::emulation::captured_stream() = stream;
  return cudaSuccess;
}
inline cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  tesseral::cuda::emulation::captured_stream() = nullptr;
  stream->captured = false;
  if (stream->broken || tesseral_emulation_refuses == 2) return cudaErrorStreamCaptureUnsupported;
  *graph = new std::vector(std::move(stream->work));
  return cudaSuccess;
}
inline cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = new std::vector(*graph);
  return cudaSuccess;
}
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  return cudaSuccess;
}
struct cudaGraphExecUpdateResultInfo {};
/// As CUDA's, only for graphs with the same nodes: here as many.
inline cudaError_t cudaGraphExecUpdate(cudaGraphExec_t executable, cudaGraph_t graph, cudaGraphExecUpdateResultInfo*) {
  if (executable->size() != graph->size()) return cudaErrorStreamCaptureUnsupported;
  *executable = *graph;
  return cudaSuccess;
}
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  if (tesseral_emulation_refuses == 3) return cudaErrorMemoryAllocation;
  for (const auto& work : *executable) tesseral::cuda::emulation::submit(stream, work);
  return cudaSuccess;
}
