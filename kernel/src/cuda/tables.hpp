// Small tables of the host (trees, terms, blocks) on the device.
#pragma once

#include <cstddef>
#include <type_traits>

namespace tesseral::cuda {

/// A copy of `bytes` bytes on the current device that lasts as long as the process; made once for equal contents, so meant
/// for what a model has a few of.
const void* bytes_on_device(const void* source, std::size_t bytes);

template <class T>
const T* on_device(const T* source, std::size_t count) {
  // padding would make equal contents differ
  static_assert(std::is_floating_point_v<T> || std::has_unique_object_representations_v<T>);
  return static_cast<const T*>(bytes_on_device(source, count * sizeof(T)));
}

}  // namespace tesseral::cuda
