#include "base/digest.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <future>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "base/text.h"

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

std::array<std::byte, 32> Sha256::bytes() {
  std::array<unsigned char, EVP_MAX_MD_SIZE> out{};
  unsigned size = 0;
  invariant(EVP_DigestFinal_ex(impl_->context, out.data(), &size) == 1 && size == 32,
            "digest final");
  std::array<std::byte, 32> digest{};
  std::memcpy(digest.data(), out.data(), digest.size());
  return digest;
}

std::string Sha256::hex() {
  constexpr std::string_view kHex = "0123456789abcdef";
  std::string out;
  for (const std::byte byte : bytes()) {
    out += kHex[std::to_integer<std::size_t>(byte) >> 4];
    out += kHex[std::to_integer<std::size_t>(byte) & 15];
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

namespace {

// Digest of bytes [first, first + kDigestChunkBytes) of a file, or up to its end.
std::array<std::byte, 32> chunk_digest(int descriptor, const Path& file, int64_t first) {
  Sha256 digest;
  std::string buffer(1 << 20, '\0');
  const int64_t last = first + kDigestChunkBytes;
  while (first < last) {
    const ssize_t got = ::pread(descriptor, buffer.data(), buffer.size(), first);
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got < 0) {
      throw_io_error(errno, file, "read");
    }
    if (got == 0) {
      break;
    }
    // A chunk is a whole number of buffers: only a short read could leave its bounds.
    const auto taken = static_cast<std::size_t>(std::min<int64_t>(got, last - first));
    digest.update(std::string_view(buffer.data(), taken));
    first += static_cast<int64_t>(taken);
  }
  return digest.bytes();
}

}  // namespace

std::string sha256_tree(const Path& file) {
  const int descriptor = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) {
    throw_io_error(errno, file, "open");
  }
  struct Closer {
    int descriptor;
    ~Closer() { ::close(descriptor); }
  } closer{descriptor};
  struct stat status {};
  if (::fstat(descriptor, &status) != 0) {
    throw_io_error(errno, file, "read");
  }
  const int64_t chunks = (status.st_size + kDigestChunkBytes - 1) / kDigestChunkBytes;
  std::vector<std::array<std::byte, 32>> digests(static_cast<std::size_t>(chunks));
  std::atomic<int64_t> next = 0;
  const auto work = [&] {
    for (int64_t i = next++; i < chunks; i = next++) {
      digests[static_cast<std::size_t>(i)] = chunk_digest(descriptor, file, i * kDigestChunkBytes);
    }
  };
  std::vector<std::future<void>> helpers;
  const int64_t cores = std::max<int64_t>(1, std::thread::hardware_concurrency());
  for (int64_t i = 1; i < std::min(cores, chunks); ++i) {
    helpers.push_back(std::async(std::launch::async, work));
  }
  work();
  for (std::future<void>& helper : helpers) {
    helper.get();
  }
  Sha256 tree;
  for (const auto& digest : digests) {
    tree.update(digest);
  }
  return tree.hex();
}

std::string sha256_files(const Path& where, const std::vector<std::string>& extensions) {
  std::vector<Path> files;
  if (std::filesystem::is_regular_file(where)) {
    files.push_back(where);
  } else {
    for (const auto& entry : std::filesystem::recursive_directory_iterator(where)) {
      if (std::find(extensions.begin(), extensions.end(), entry.path().extension().string()) !=
          extensions.end()) {
        files.push_back(entry.path());
      }
    }
  }
  std::sort(files.begin(), files.end());
  Sha256 digest;
  for (const Path& file : files) {
    digest.update(str(file.lexically_relative(where).string(), ' ', sha256_tree(file), '\n'));
  }
  return digest.hex();
}

}  // namespace fastwan
