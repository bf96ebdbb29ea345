#include "model_path.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <filesystem>

namespace tesseral {
namespace {

std::filesystem::path shipped_folder() {
  return std::filesystem::path(plugin_folder()).parent_path() / "models" / "shipped";
}

}  // namespace

std::string plugin_folder() {
  Dl_info info;
  if (dladdr(reinterpret_cast<void*>(&plugin_folder), &info) == 0) return ".";
  std::error_code error;
  const auto file = std::filesystem::absolute(info.dli_fname, error);
  return file.parent_path().string();
}

std::vector<std::string> shipped_models() {
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(shipped_folder(), error)) {
    if (entry.path().extension() == ".pt") names.push_back(entry.path().stem().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::string shipped_path(const std::string& name) {
  return (shipped_folder() / (name + ".pt")).string();
}

}  // namespace tesseral
