// A small JSON reader for the metadata and the tensor index of model files.
#pragma once

#include <map>
#include <string>
#include <vector>

namespace tesseral {

/// A parsed JSON value. Access with the wrong kind or a missing key throws std::runtime_error naming the key.
class Json {
 public:
  enum class Kind { null, boolean, number, string, array, object };

  /// Parses a whole text; throws std::runtime_error with the byte offset of the first fault.
  static Json parse(const std::string& text);

  Kind kind() const { return kind_; }
  bool is_null() const { return kind_ == Kind::null; }
  bool has(const std::string& key) const;
  const Json& at(const std::string& key) const;
  const std::vector<Json>& items() const;
  const std::map<std::string, Json>& members() const;
  double number() const;
  int integer() const;
  const std::string& text() const;

 private:
  friend class JsonParser;
  Kind kind_ = Kind::null;
  bool boolean_ = false;
  double number_ = 0;
  std::string text_;
  std::vector<Json> items_;
  std::map<std::string, Json> members_;
};

}  // namespace tesseral
