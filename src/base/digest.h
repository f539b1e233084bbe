// SHA-256 (OpenSSL).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/files.h"

namespace fastwan {

class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;
  void update(std::span<const std::byte> bytes);
  void update(std::string_view text);
  std::array<std::byte, 32> bytes();  // finishes; call once, this or hex()
  std::string hex();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

std::string sha256_hex(std::string_view content);
std::string sha256_file(const Path& file);

// Tree digest of a file: sha256 over the raw digests of its chunks of 16 MiB, in order, so that all
// cores can help. An empty file has no chunk: sha256 of nothing.
inline constexpr int64_t kDigestChunkBytes = int64_t{16} << 20;
std::string sha256_tree(const Path& file);

// Of a part of a model, every byte: sha256 over the sorted relative names and the tree digests of
// the files below `where` with one of the extensions (".json"), or of `where` where it is a file.
std::string sha256_files(const Path& where, const std::vector<std::string>& extensions);

}  // namespace fastwan
