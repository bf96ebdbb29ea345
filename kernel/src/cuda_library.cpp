#include "tesseral/cuda_library.hpp"

#include <dlfcn.h>

#include <mutex>
#include <stdexcept>

namespace tesseral {
namespace {

std::mutex mutex;
std::string chosen_path;
const CudaLibrary* loaded = nullptr;

/// Folder of the library or program that this code is part of.
std::string own_folder() {
  Dl_info info;
  if (!dladdr(reinterpret_cast<const void*>(&own_folder), &info) || !info.dli_fname) return ".";
  const std::string path = info.dli_fname;
  const auto slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash);
}

/// Beside this code; the pair style lies in a folder next to the kernel's.
void* open_library() {
  std::string errors;
  const std::string folder = own_folder();
  const std::vector<std::string> paths =
      chosen_path.empty()
          ? std::vector<std::string>{folder + "/libtesseral_cuda.so", folder + "/../kernel/libtesseral_cuda.so"}
          : std::vector<std::string>{chosen_path};
  for (const std::string& path : paths) {
    if (void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) return handle;
    errors += std::string("\n  ") + dlerror();
  }
  throw std::runtime_error(
      "device cuda: this build of tesseral has no CUDA library: install it where nvcc is found (CUDA 12.0 or newer), or "
      "choose "
      "device cpu. Tried:" +
      errors);
}

}  // namespace

const CudaLibrary& cuda_library() {
  const std::lock_guard<std::mutex> lock(mutex);
  if (loaded) return *loaded;
  void* handle = open_library();
  const auto function = reinterpret_cast<CudaLibraryFunction>(dlsym(handle, cuda_library_symbol));
  const CudaLibrary* library = function ? function() : nullptr;
  if (!library || library->layout != cuda_library_layout) {
    throw std::runtime_error(
        "device cuda: the CUDA library belongs to another version of tesseral: install the package anew");
  }
  if (library->device_count() == 0) {
    throw std::runtime_error("device cuda: there is no NVIDIA GPU here; choose device cpu");
  }
  loaded = library;
  return *loaded;
}

void use_cuda_library(const std::string& path) {
  const std::lock_guard<std::mutex> lock(mutex);
  chosen_path = path;
  loaded = nullptr;
}

}  // namespace tesseral
