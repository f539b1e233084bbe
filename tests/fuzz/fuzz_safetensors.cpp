#include <vector>

#include "input.h"
#include "io/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const fastwan::testing::MemoryFile file(data, size);
  return fastwan::testing::accept_or_refuse([&] {
    const auto opened = fastwan::io::SafetensorsFile::open(file.path());
    for (const fastwan::io::TensorInfo& tensor : opened.tensors()) {
      std::vector<std::byte> bytes(static_cast<std::size_t>(tensor.num_bytes()));
      opened.read(tensor, bytes);
    }
  });
}
