// The device that a thread of the host works on is the driver's current context, which CUDA's run times share: ours, and
// those of the program around it, such as torch's.
#pragma once

#ifndef TESSERAL_EMULATE
#include <cuda.h>
#include <dlfcn.h>
#endif

namespace tesseral::cuda {

#ifdef TESSERAL_EMULATE

class DeviceScope {
 public:
  DeviceScope() {}
  ~DeviceScope() {}
};

#else

/// In the scope the thread may choose a device; at its end it works again on the one from before, or on none. The driver is
/// asked: cudaGetDevice tells the first device where there is none, which cudaSetDevice would then take into use.
class DeviceScope {
 public:
  DeviceScope() {
    if (const auto get = driver_function<decltype(&cuCtxGetCurrent)>("cuCtxGetCurrent")) get(&before_);
  }
  ~DeviceScope() {
    if (const auto set = driver_function<decltype(&cuCtxSetCurrent)>("cuCtxSetCurrent")) set(before_);
  }
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  CUcontext before_ = nullptr;

  /// Of the driver that is loaded; null before CUDA is used.
  template <class Function>
  static Function driver_function(const char* name) {
    void* driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    if (!driver) return nullptr;
    const auto function = reinterpret_cast<Function>(dlsym(driver, name));
    dlclose(driver);  // counts the users; the run time still is one
    return function;
  }
};

#endif

}  // namespace tesseral::cuda
