#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "device.hpp"
#include "tables.hpp"

namespace tesseral::cuda {

const void* bytes_on_device(const void* source, std::size_t bytes) {
  static std::mutex& mutex = *new std::mutex;
  static auto& copies = *new std::map<std::pair<int, std::string>, DeviceArray<char>>;  // outlives CUDA's own state
  const std::lock_guard<std::mutex> lock(mutex);
  int device = 0;
  check(cudaGetDevice(&device), "device");
  const auto* text = static_cast<const char*>(source);
  DeviceArray<char>& copy = copies[{device, std::string(text, bytes)}];
  if (copy.size() != bytes) {
    copy.upload(text, bytes);
    check(cudaStreamSynchronize(current_stream()), "wait");  // other streams may use it next
  }
  return copy.data();
}

}  // namespace tesseral::cuda
