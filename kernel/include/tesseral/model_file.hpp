// The model file as the native engine reads it: a TorchScript archive (plain zip) with metadata.json and
// parameters.safetensors among its extra files. Nothing is executed and torch is not needed.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "tesseral/json.hpp"

namespace tesseral {

/// Files of a zip archive whose path ends in one of `names`, by name. Entries must be stored uncompressed, as torch
/// writes them; their CRC-32 is checked. Throws std::runtime_error naming the file and what is wrong with it.
std::map<std::string, std::string> read_archive(const std::string& path, const std::vector<std::string>& names);

/// A dense row-major array of numbers, converted to float64.
struct Array {
  std::vector<int64_t> shape;
  std::vector<double> values;
};

/// Highest version of the format that this code reads.
constexpr int model_format_version = 1;

struct ModelFile {
  std::string path;
  std::string metadata_text;
  Json metadata;
  std::map<std::string, Array> parameters;

  /// Reads and checks a file; throws std::runtime_error naming the file, the fault and the remedy.
  static ModelFile read(const std::string& path);

  /// The parameter of that name with that shape (-1 matches any length).
  const Array& parameter(const std::string& name, const std::vector<int64_t>& shape) const;
};

}  // namespace tesseral
