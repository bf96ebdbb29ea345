// Values made from tensors, kept while the tensors live and do not change.
#pragma once

#include <torch/torch.h>

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

namespace tesseral::torch_ops {

/// What a value was made from: tensors as they are now, and numbers beside them. Only changes that torch counts are seen,
/// not those by somebody who has the tensor's memory: values must be copies, so that they are at worst old.
class CacheKey {
 public:
  CacheKey(const std::vector<torch::Tensor>& tensors, std::vector<int64_t> numbers) : numbers_(std::move(numbers)) {
    sources_.reserve(tensors.size());
    for (const torch::Tensor& tensor : tensors) {
      const auto& counter = tensor.unsafeGetTensorImpl()->version_counter();
      usable_ = usable_ && counter.enabled();  // those of the inference mode do not count
      sources_.push_back({Weak(tensor.getIntrusivePtr()), tensor.const_data_ptr(), usable_ ? counter.current_version() : 0});
    }
  }
  bool usable() const {
    return usable_ && std::none_of(sources_.begin(), sources_.end(), [](const auto& s) { return s.tensor.expired(); });
  }
  bool operator==(const CacheKey& other) const {
    return usable_ && numbers_ == other.numbers_ &&
           std::equal(sources_.begin(), sources_.end(), other.sources_.begin(), other.sources_.end());
  }

 private:
  using Weak = c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>;
  struct Source {
    Weak tensor;  // as long as this exists no other tensor gets its address
    const void* data;
    uint32_t version;

    bool operator==(const Source& other) const {
      return tensor._unsafe_get_target() == other.tensor._unsafe_get_target() && data == other.data &&
             version == other.version;
    }
  };
  std::vector<Source> sources_;
  std::vector<int64_t> numbers_;
  bool usable_ = true;
};

/// The last few values, for all threads.
template <class Value>
class TensorCache {
 public:
  std::optional<Value> find(const CacheKey& key) {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const auto& [known, value] : entries_) {
      if (known == key) return value;
    }
    return std::nullopt;
  }
  void keep(CacheKey key, Value value) {
    if (!key.usable()) return;
    const std::lock_guard<std::mutex> lock(mutex_);
    std::erase_if(entries_, [&](const auto& entry) { return !entry.first.usable() || entry.first == key; });
    if (entries_.size() == most) entries_.erase(entries_.begin());
    entries_.emplace_back(std::move(key), std::move(value));
  }
  template <class Make>
  Value get(CacheKey key, Make make) {
    if (std::optional<Value> known = find(key)) return *std::move(known);
    Value value = make();
    keep(std::move(key), value);
    return value;
  }

 private:
  static constexpr std::size_t most = 32;
  std::mutex mutex_;
  std::vector<std::pair<CacheKey, Value>> entries_;  // oldest first
};

}  // namespace tesseral::torch_ops
