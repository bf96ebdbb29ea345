// Reader of uncompressed zip archives (APPNOTE.TXT 6.3.3, with zip64 sizes).
#include <array>
#include <cstring>
#include <fstream>
#include <stdexcept>

#include "tesseral/model_file.hpp"

namespace tesseral {
namespace {

uint32_t crc32(const char* data, std::size_t size) {
  static const std::array<uint32_t, 256> table = [] {
    std::array<uint32_t, 256> t{};
    for (uint32_t n = 0; n < 256; ++n) {
      uint32_t c = n;
      for (int bit = 0; bit < 8; ++bit) c = c & 1 ? 0xEDB88320u ^ (c >> 1) : c >> 1;
      t[n] = c;
    }
    return t;
  }();
  uint32_t crc = 0xFFFFFFFFu;
  for (std::size_t n = 0; n < size; ++n) crc = table[(crc ^ static_cast<unsigned char>(data[n])) & 0xFF] ^ (crc >> 8);
  return crc ^ 0xFFFFFFFFu;
}

class ZipReader {
 public:
  explicit ZipReader(const std::string& path) : path_(path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error(path + ": cannot be opened; check the path and its permissions");
    bytes_.assign(std::istreambuf_iterator<char>(file), {});
  }

  std::map<std::string, std::string> read(const std::vector<std::string>& names) const {
    std::map<std::string, std::string> found;
    uint64_t count = 0;
    std::size_t at = central_directory(count);
    for (uint64_t entry = 0; entry < count; ++entry) {
      need(at, 46);
      if (number<uint32_t>(at) != 0x02014b50) fail_damaged("its directory is broken");
      const std::size_t name_length = number<uint16_t>(at + 28), extra_length = number<uint16_t>(at + 30);
      const std::size_t comment_length = number<uint16_t>(at + 32);
      need(at + 46, name_length + extra_length + comment_length);
      const std::string name = bytes_.substr(at + 46, name_length);
      for (const std::string& wanted : names) {
        if (!ends_with(name, "/" + wanted)) continue;
        if (found.count(wanted)) fail_damaged("it holds " + wanted + " twice");
        found[wanted] = content(at, name_length, extra_length, wanted);
      }
      at += 46 + name_length + extra_length + comment_length;
    }
    return found;
  }

 private:
  std::string path_;
  std::string bytes_;

  static bool ends_with(const std::string& text, const std::string& end) {
    return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
  }
  [[noreturn]] void fail_damaged(const std::string& how) const {
    throw std::runtime_error(path_ + ": the file is truncated or damaged (" + how + "); copy or export it again");
  }
  void need(std::size_t at, std::size_t size) const {
    if (at > bytes_.size() || size > bytes_.size() - at) fail_damaged("it ends too early");
  }
  template <class N>
  N number(std::size_t at) const {
    need(at, sizeof(N));
    N value;
    std::memcpy(&value, bytes_.data() + at, sizeof value);
    return value;
  }

  /// Offset of the central directory; sets the number of its entries.
  std::size_t central_directory(uint64_t& count) const {
    if (bytes_.compare(0, 4, "PK\x03\x04") != 0) {
      throw std::runtime_error(path_ + ": not a Tesseral model file (it is no zip archive)");
    }
    std::size_t end = bytes_.size() < 22 ? std::string::npos : bytes_.rfind("PK\x05\x06", bytes_.size() - 22);
    if (end == std::string::npos) fail_damaged("its directory is missing");
    count = number<uint16_t>(end + 10);
    uint64_t offset = number<uint32_t>(end + 16);
    const bool zip64 = end >= 20 && bytes_.compare(end - 20, 4, "PK\x06\x07") == 0;
    if (zip64) {
      const auto record = static_cast<std::size_t>(number<uint64_t>(end - 20 + 8));
      if (number<uint32_t>(record) != 0x06064b50) fail_damaged("its zip64 record is broken");
      count = number<uint64_t>(record + 32);
      offset = number<uint64_t>(record + 48);
    }
    return static_cast<std::size_t>(offset);
  }

  std::string content(std::size_t at, std::size_t name_length, std::size_t extra_length, const std::string& name) const {
    if (number<uint16_t>(at + 10) != 0) fail_damaged(name + " is compressed; torch stores it plain");
    const uint32_t expected = number<uint32_t>(at + 16);
    uint64_t size = number<uint32_t>(at + 24), offset = number<uint32_t>(at + 42);
    std::size_t field = at + 46 + name_length;
    const std::size_t fields_end = field + extra_length;
    while (field + 4 <= fields_end) {  // zip64 sizes stand in for those that read 0xFFFFFFFF, in order
      const uint16_t id = number<uint16_t>(field), length = number<uint16_t>(field + 2);
      if (id == 1) {
        std::size_t next = field + 4;
        if (size == 0xFFFFFFFFu) size = number<uint64_t>(next), next += 8;
        if (number<uint32_t>(at + 20) == 0xFFFFFFFFu) next += 8;
        if (offset == 0xFFFFFFFFu) offset = number<uint64_t>(next);
      }
      field += 4u + length;
    }
    const auto local = static_cast<std::size_t>(offset);
    const std::size_t data = local + 30 + number<uint16_t>(local + 26) + number<uint16_t>(local + 28);
    need(data, static_cast<std::size_t>(size));
    if (crc32(bytes_.data() + data, static_cast<std::size_t>(size)) != expected) {
      fail_damaged("the checksum of " + name + " does not match");
    }
    return bytes_.substr(data, static_cast<std::size_t>(size));
  }
};

}  // namespace

std::map<std::string, std::string> read_archive(const std::string& path, const std::vector<std::string>& names) {
  return ZipReader(path).read(names);
}

}  // namespace tesseral
