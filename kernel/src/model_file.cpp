// Metadata and parameters of a model file.
#include "tesseral/model_file.hpp"

#include <cstring>
#include <stdexcept>

namespace tesseral {
namespace {

template <class N>
void append(const char* data, std::size_t count, std::vector<double>& values) {
  values.resize(count);
  for (std::size_t n = 0; n < count; ++n) {
    N value;
    std::memcpy(&value, data + n * sizeof(N), sizeof(N));
    values[n] = static_cast<double>(value);
  }
}

/// One tensor of a safetensors file: its header entry and the bytes that follow the header.
Array read_tensor(const std::string& name, const Json& entry, const char* data, std::size_t size) {
  const std::string& dtype = entry.at("dtype").text();
  const std::map<std::string, int> widths = {{"F64", 8}, {"F32", 4}, {"I64", 8}, {"I32", 4}};
  if (!widths.count(dtype)) {
    throw std::runtime_error("tensor '" + name + "' has dtype " + dtype + "; F64, F32, I64 and I32 are read");
  }
  const int width = widths.at(dtype);
  Array array;
  double count = 1;  // exact up to 2^53, far beyond the bytes of any file
  for (const Json& n : entry.at("shape").items()) {
    array.shape.push_back(n.integer());
    if (array.shape.back() < 0) throw std::runtime_error("tensor '" + name + "' has a negative length");
    count *= static_cast<double>(array.shape.back());
  }
  const auto& offsets = entry.at("data_offsets").items();
  if (offsets.size() != 2) throw std::runtime_error("tensor '" + name + "' has no byte range");
  const double begin = offsets[0].number(), end = offsets[1].number();
  if (!(begin >= 0 && begin <= end && end <= static_cast<double>(size) && end - begin == count * width)) {
    throw std::runtime_error("tensor '" + name + "' has a byte range that does not fit its shape");
  }
  const char* source = data + static_cast<std::size_t>(begin);
  const auto n = static_cast<std::size_t>(count);
  if (dtype == "F64") {
    append<double>(source, n, array.values);
  } else if (dtype == "F32") {
    append<float>(source, n, array.values);
  } else if (dtype == "I64") {
    append<int64_t>(source, n, array.values);
  } else {
    append<int32_t>(source, n, array.values);
  }
  return array;
}

std::map<std::string, Array> read_safetensors(const std::string& bytes) {
  uint64_t header = 0;
  if (bytes.size() < 8) throw std::runtime_error("the parameters are empty");
  std::memcpy(&header, bytes.data(), 8);
  if (header > bytes.size() - 8) throw std::runtime_error("the parameters end too early");
  const Json index = Json::parse(bytes.substr(8, static_cast<std::size_t>(header)));
  const char* data = bytes.data() + 8 + header;
  std::map<std::string, Array> arrays;
  for (const auto& [name, entry] : index.members()) {
    if (name == "__metadata__") continue;
    arrays[name] = read_tensor(name, entry, data, bytes.size() - 8 - static_cast<std::size_t>(header));
  }
  return arrays;
}

std::string describe(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (int64_t n : shape) text += (text.size() > 1 ? ", " : "") + (n < 0 ? std::string("*") : std::to_string(n));
  return text + "]";
}

}  // namespace

ModelFile ModelFile::read(const std::string& path) {
  ModelFile file;
  file.path = path;
  const auto entries = read_archive(path, {"metadata.json", "parameters.safetensors"});
  if (!entries.count("metadata.json") || !entries.count("parameters.safetensors")) {
    throw std::runtime_error(path +
                             ": not a Tesseral model file (an archive without metadata.json and "
                             "parameters.safetensors); export the model with `tesseral train`");
  }
  file.metadata_text = entries.at("metadata.json");
  try {
    file.metadata = Json::parse(file.metadata_text);
    if (!file.metadata.has("format") || file.metadata.at("format").text() != "tesseral-model") {
      throw std::runtime_error("metadata.json does not say format \"tesseral-model\"");
    }
    const int version = file.metadata.at("format_version").integer();
    if (version > model_format_version) {
      throw std::runtime_error("format version " + std::to_string(version) + " is newer than this Tesseral reads (" +
                               std::to_string(model_format_version) + "); update tesseral");
    }
    file.parameters = read_safetensors(entries.at("parameters.safetensors"));
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(path + ": " + error.what());
  }
  return file;
}

const Array& ModelFile::parameter(const std::string& name, const std::vector<int64_t>& shape) const {
  const auto found = parameters.find(name);
  if (found == parameters.end()) throw std::runtime_error(path + ": parameter '" + name + "' is missing");
  bool matches = found->second.shape.size() == shape.size() && !found->second.values.empty();
  for (std::size_t d = 0; matches && d < shape.size(); ++d) {
    matches = shape[d] < 0 || shape[d] == found->second.shape[d];
  }
  if (!matches) {
    throw std::runtime_error(path + ": parameter '" + name + "' has shape " + describe(found->second.shape) + ", expected " +
                             describe(shape));
  }
  return found->second;
}

}  // namespace tesseral
