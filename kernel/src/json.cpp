// Recursive-descent JSON parser (RFC 8259), for texts of trusted size.
#include "tesseral/json.hpp"

#include <charconv>
#include <cmath>
#include <cstdlib>
#include <stdexcept>

namespace tesseral {

class JsonParser {
 public:
  explicit JsonParser(const std::string& text) : text_(text) {}

  Json document() {
    Json value = any(0);
    skip_space();
    if (at_ != text_.size()) fail("text after the end of the document");
    return value;
  }

 private:
  static constexpr int max_depth = 100;
  const std::string& text_;
  std::size_t at_ = 0;

  [[noreturn]] void fail(const std::string& what) const {
    throw std::runtime_error("JSON: " + what + " at byte " + std::to_string(at_));
  }
  void skip_space() {
    while (at_ < text_.size() && std::string(" \t\r\n").find(text_[at_]) != std::string::npos) ++at_;
  }
  char peek() {
    skip_space();
    if (at_ >= text_.size()) fail("unexpected end");
    return text_[at_];
  }
  void expect(char c) {
    if (peek() != c) fail(std::string("expected '") + c + "'");
    ++at_;
  }
  bool take(char c) {
    if (peek() != c) return false;
    ++at_;
    return true;
  }
  void word(const char* expected) {
    const std::string w(expected);
    if (text_.compare(at_, w.size(), w) != 0) fail("unknown word");
    at_ += w.size();
  }

  Json any(int depth) {
    if (depth > max_depth) fail("nested too deeply");
    Json value;
    switch (peek()) {
      case '{':
        object(value, depth);
        break;
      case '[':
        array(value, depth);
        break;
      case '"':
        value.kind_ = Json::Kind::string;
        value.text_ = string();
        break;
      case 't':
      case 'f':
        value.kind_ = Json::Kind::boolean;
        value.boolean_ = text_[at_] == 't';
        word(value.boolean_ ? "true" : "false");
        break;
      case 'n':
        word("null");
        break;
      default:
        number(value);
    }
    return value;
  }

  void object(Json& value, int depth) {
    value.kind_ = Json::Kind::object;
    expect('{');
    if (take('}')) return;
    do {
      if (peek() != '"') fail("expected a key");
      std::string key = string();
      expect(':');
      value.members_[key] = any(depth + 1);
    } while (take(','));
    expect('}');
  }

  void array(Json& value, int depth) {
    value.kind_ = Json::Kind::array;
    expect('[');
    if (take(']')) return;
    do value.items_.push_back(any(depth + 1));
    while (take(','));
    expect(']');
  }

  void number(Json& value) {
    const char* begin = text_.data() + at_;
    value.kind_ = Json::Kind::number;
    // from_chars does not look at the locale; a letter would be its nan or inf, which JSON has not
    const bool digit = *begin == '-' || (*begin >= '0' && *begin <= '9');
    const auto [end, error] = std::from_chars(begin, text_.data() + text_.size(), value.number_);
    if (!digit || error != std::errc() || !std::isfinite(value.number_)) fail("expected a value");
    at_ += static_cast<std::size_t>(end - begin);
  }

  std::string string() {
    expect('"');
    std::string out;
    while (true) {
      if (at_ >= text_.size()) fail("unterminated string");
      char c = text_[at_++];
      if (c == '"') return out;
      if (c != '\\') {
        out += c;
        continue;
      }
      if (at_ >= text_.size()) fail("unterminated string");
      c = text_[at_++];
      switch (c) {
        case 'b':
          out += '\b';
          break;
        case 'f':
          out += '\f';
          break;
        case 'n':
          out += '\n';
          break;
        case 'r':
          out += '\r';
          break;
        case 't':
          out += '\t';
          break;
        case 'u':
          append_utf8(out, code_point());
          break;
        default:
          out += c;
      }
    }
  }

  unsigned hex4() {
    if (at_ + 4 > text_.size()) fail("unterminated \\u escape");
    const std::string digits = text_.substr(at_, 4);
    if (digits.find_first_not_of("0123456789abcdefABCDEF") != std::string::npos) fail("bad \\u escape");
    at_ += 4;
    return static_cast<unsigned>(std::strtoul(digits.c_str(), nullptr, 16));
  }
  unsigned code_point() {
    const unsigned high = hex4();
    if (high < 0xD800 || high > 0xDBFF || text_.compare(at_, 2, "\\u") != 0) return high;
    at_ += 2;
    return 0x10000 + ((high - 0xD800) << 10) + (hex4() - 0xDC00);
  }
  static void append_utf8(std::string& out, unsigned code) {
    const auto byte = [&](unsigned b) { out += static_cast<char>(b); };
    if (code < 0x80) {
      byte(code);
    } else if (code < 0x800) {
      byte(0xC0 | (code >> 6));
      byte(0x80 | (code & 0x3F));
    } else if (code < 0x10000) {
      byte(0xE0 | (code >> 12));
      byte(0x80 | ((code >> 6) & 0x3F));
      byte(0x80 | (code & 0x3F));
    } else {
      byte(0xF0 | (code >> 18));
      byte(0x80 | ((code >> 12) & 0x3F));
      byte(0x80 | ((code >> 6) & 0x3F));
      byte(0x80 | (code & 0x3F));
    }
  }
};

Json Json::parse(const std::string& text) {
  return JsonParser(text).document();
}

bool Json::has(const std::string& key) const {
  return kind_ == Kind::object && members_.count(key) > 0;
}

const Json& Json::at(const std::string& key) const {
  const auto found = members_.find(key);
  if (found == members_.end()) throw std::runtime_error("key '" + key + "' is missing");
  return found->second;
}

const std::vector<Json>& Json::items() const {
  if (kind_ != Kind::array) throw std::runtime_error("a list was expected");
  return items_;
}
const std::map<std::string, Json>& Json::members() const {
  if (kind_ != Kind::object) throw std::runtime_error("an object was expected");
  return members_;
}
double Json::number() const {
  if (kind_ != Kind::number) throw std::runtime_error("a number was expected");
  return number_;
}
int Json::integer() const {
  const double value = number();
  if (value != std::floor(value) || std::fabs(value) > 2147483647.0) throw std::runtime_error("an integer was expected");
  return static_cast<int>(value);
}
const std::string& Json::text() const {
  if (kind_ != Kind::string) throw std::runtime_error("a string was expected");
  return text_;
}

}  // namespace tesseral
