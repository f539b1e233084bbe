// PNGs written by libpng: the one format that must work where there is no ffmpeg.
#include <csetjmp>
#include <new>

#include <png.h>

#include "base/check.h"
#include "base/text.h"
#include "io/image.h"
#include "io/media_metadata.h"

namespace fastwan::io {
namespace {

void append_bytes(png_structp png, png_bytep bytes, std::size_t count) {
  auto* out = static_cast<std::string*>(png_get_io_ptr(png));
  bool is_kept = true;
  try {
    out->append(reinterpret_cast<const char*>(bytes), count);
  } catch (const std::bad_alloc&) {
    is_kept = false;  // an exception must not pass through libpng's C frames
  }
  if (!is_kept) {
    png_error(png, "out of memory");
  }
}

void keep_silent(png_structp /*png*/, png_const_charp /*message*/) {}

[[noreturn]] void jump_back(png_structp png, png_const_charp /*message*/) {
  png_longjmp(png, 1);
}

// iTXt is UTF-8 by definition, tEXt is Latin-1.
void set_metadata(png_structp png, png_infop info, std::string& metadata) {
  std::string keyword(kPngMetadataKeyword);
  std::string empty;
  png_text text{};
  text.compression = PNG_ITXT_COMPRESSION_NONE;
  text.key = keyword.data();
  text.text = metadata.data();
  text.itxt_length = metadata.size();
  text.lang = empty.data();
  text.lang_key = empty.data();
  png_set_text(png, info, &text, 1);
}

// Nothing in here owns memory: libpng reports errors by longjmp, which runs no destructor.
bool write_all(png_structp png, png_infop info, const Image& image) {
  if (setjmp(png_jmpbuf(png)) != 0) {
    return false;
  }
  png_write_info(png, info);
  const auto stride = static_cast<std::size_t>(image.width * 3);
  for (int64_t y = 0; y < image.height; ++y) {
    png_write_row(png, image.rgb.data() + static_cast<std::size_t>(y) * stride);
  }
  png_write_end(png, info);
  return true;
}

bool set_header(png_structp png, png_infop info, const Image& image, std::string& metadata) {
  if (setjmp(png_jmpbuf(png)) != 0) {
    return false;
  }
  png_set_IHDR(png, info, static_cast<png_uint_32>(image.width),
               static_cast<png_uint_32>(image.height), 8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
               PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
  if (!metadata.empty()) {
    set_metadata(png, info, metadata);
  }
  return true;
}

struct PngWriter {
  PngWriter() {
    png = png_create_write_struct(PNG_LIBPNG_VER_STRING, nullptr, jump_back, keep_silent);
    if (png == nullptr || (info = png_create_info_struct(png)) == nullptr) {
      png_destroy_write_struct(&png, &info);
      throw std::bad_alloc();
    }
  }
  ~PngWriter() { png_destroy_write_struct(&png, &info); }
  PngWriter(const PngWriter&) = delete;
  PngWriter& operator=(const PngWriter&) = delete;

  png_structp png = nullptr;
  png_infop info = nullptr;
};

}  // namespace

std::string encode_png(const Image& image, std::string_view metadata) {
  invariant(image.width > 0 && image.height > 0 &&
                static_cast<int64_t>(image.rgb.size()) == image.width * image.height * 3,
            "an image has width * height * 3 bytes");
  require_metadata_text(metadata);
  std::string out;
  std::string text(metadata);
  PngWriter writer;
  png_set_write_fn(writer.png, &out, append_bytes, nullptr);
  if (!set_header(writer.png, writer.info, image, text) ||
      !write_all(writer.png, writer.info, image)) {
    throw IoError(Code::kEncoderFailed,
                  str("libpng cannot write an image of ", image.width, " x ", image.height));
  }
  return out;
}

void write_png(const Path& to, const Image& image, std::string_view metadata) {
  write_durably(to, encode_png(image, metadata));
}

}  // namespace fastwan::io
