#include "base/digest.h"

#include <array>
#include <cerrno>
#include <cstdio>

#include <openssl/evp.h>

#include "base/check.h"

namespace fastwan {

struct Sha256::Impl {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  ~Impl() { EVP_MD_CTX_free(context); }
};

Sha256::Sha256() : impl_(std::make_unique<Impl>()) {
  invariant(EVP_DigestInit_ex(impl_->context, EVP_sha256(), nullptr) == 1, "OpenSSL has SHA-256");
}
Sha256::~Sha256() = default;

void Sha256::update(std::span<const std::byte> bytes) {
  invariant(EVP_DigestUpdate(impl_->context, bytes.data(), bytes.size()) == 1, "digest update");
}

void Sha256::update(std::string_view text) {
  update(std::as_bytes(std::span(text.data(), text.size())));
}

std::string Sha256::hex() {
  constexpr std::string_view kHex = "0123456789abcdef";
  std::array<unsigned char, EVP_MAX_MD_SIZE> bytes{};
  unsigned size = 0;
  invariant(EVP_DigestFinal_ex(impl_->context, bytes.data(), &size) == 1, "digest final");
  std::string out;
  for (unsigned i = 0; i < size; ++i) {
    out += kHex[bytes[i] >> 4];
    out += kHex[bytes[i] & 15];
  }
  return out;
}

std::string sha256_hex(std::string_view content) {
  Sha256 digest;
  digest.update(content);
  return digest.hex();
}

std::string sha256_file(const Path& file) {
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> stream(std::fopen(file.c_str(), "rb"),
                                                         std::fclose);
  if (!stream) {
    throw_io_error(errno, file, "open");
  }
  Sha256 digest;
  std::string buffer(1 << 20, '\0');
  std::size_t got = 0;
  while ((got = std::fread(buffer.data(), 1, buffer.size(), stream.get())) > 0) {
    digest.update(std::string_view(buffer.data(), got));
  }
  if (std::ferror(stream.get()) != 0) {
    throw_io_error(errno, file, "read");
  }
  return digest.hex();
}

}  // namespace fastwan
