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
  const std::pair key(device, std::string(text, bytes));
  auto found = copies.find(key);
  if (found == copies.end()) {
    DeviceArray<char> copy;
    copy.upload(text, bytes);
    check(cudaStreamSynchronize(current_stream()), "wait");  // other streams may use it next
    found = copies.emplace(key, std::move(copy)).first;
  }
  return found->second.data();
}

}  // namespace tesseral::cuda
