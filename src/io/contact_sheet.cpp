#include "io/contact_sheet.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <string>

#include "base/check.h"

namespace fastwan::io {
namespace {

constexpr int64_t kGap = 2;          // pixels between frames
constexpr uint8_t kBackground = 24;  // nearly black
constexpr int64_t kGlyphWidth = 3, kGlyphHeight = 5;
constexpr int64_t kSmallestScaled =
    160;  // frames below this width show their time in single pixels

// Rows of three bits, most significant left.
struct Glyph {
  char character;
  std::array<uint8_t, kGlyphHeight> rows;
};
constexpr std::array<Glyph, 12> kGlyphs = {{{'0', {7, 5, 5, 5, 7}},
                                            {'1', {2, 6, 2, 2, 7}},
                                            {'2', {7, 1, 7, 4, 7}},
                                            {'3', {7, 1, 7, 1, 7}},
                                            {'4', {5, 5, 7, 1, 1}},
                                            {'5', {7, 4, 7, 1, 7}},
                                            {'6', {7, 4, 7, 5, 7}},
                                            {'7', {7, 1, 1, 1, 1}},
                                            {'8', {7, 5, 7, 5, 7}},
                                            {'9', {7, 5, 7, 1, 7}},
                                            {'.', {0, 0, 0, 0, 2}},
                                            {'s', {0, 3, 6, 3, 6}}}};

void fill(Image& image, int64_t x, int64_t y, FrameSize size, uint8_t value) {
  for (int64_t row = std::max<int64_t>(0, y); row < std::min(image.height, y + size.height);
       ++row) {
    for (int64_t column = std::max<int64_t>(0, x); column < std::min(image.width, x + size.width);
         ++column) {
      std::fill_n(image.rgb.begin() + (row * image.width + column) * 3, 3, value);
    }
  }
}

// White on black, its upper left corner at (x, y).
void write_text(Image& image, int64_t x, int64_t y, int64_t scale, const std::string& text) {
  const auto count = static_cast<int64_t>(text.size());
  fill(image, x, y, {(count * (kGlyphWidth + 1) + 1) * scale, (kGlyphHeight + 2) * scale}, 0);
  for (int64_t i = 0; i < count; ++i) {
    const auto* glyph = std::find_if(kGlyphs.begin(), kGlyphs.end(), [&](const Glyph& candidate) {
      return candidate.character == text[static_cast<std::size_t>(i)];
    });
    invariant(glyph != kGlyphs.end(), "every character of a time has a glyph");
    for (int64_t row = 0; row < kGlyphHeight; ++row) {
      for (int64_t column = 0; column < kGlyphWidth; ++column) {
        if ((glyph->rows[static_cast<std::size_t>(row)] >> (kGlyphWidth - 1 - column) & 1) != 0) {
          fill(image, x + (1 + i * (kGlyphWidth + 1) + column) * scale, y + (1 + row) * scale,
               {scale, scale}, 255);
        }
      }
    }
  }
}

}  // namespace

ContactSheet::ContactSheet(const ContactSheetFormat& format) : format_(format) {
  image_.width = format.columns * (format.frame.width + kGap) + kGap;
  image_.height = format.rows * (format.frame.height + kGap) + kGap;
  image_.rgb.assign(static_cast<std::size_t>(image_.width * image_.height * 3), kBackground);
}

int64_t ContactSheet::num_places() const {
  return std::min(format_.columns * format_.rows, format_.num_frames);
}

int64_t ContactSheet::frame_at(int64_t place) const {
  return num_places() < 2 ? 0 : place * (format_.num_frames - 1) / (num_places() - 1);
}

void ContactSheet::add(std::span<const uint8_t> rgb) {
  const int64_t frame = next_frame_++;
  if (next_place_ < num_places() && frame == frame_at(next_place_)) {
    put(rgb, next_place_++);
  }
}

void ContactSheet::put(std::span<const uint8_t> rgb, int64_t place) {
  const FrameSize frame = format_.frame;
  invariant(static_cast<int64_t>(rgb.size()) == frame.width * frame.height * 3,
            "a frame of the sheet's size");
  const int64_t x = kGap + place % format_.columns * (frame.width + kGap);
  const int64_t y = kGap + place / format_.columns * (frame.height + kGap);
  for (int64_t row = 0; row < frame.height; ++row) {
    const auto source = rgb.begin() + row * frame.width * 3;
    std::copy(source, source + frame.width * 3,
              image_.rgb.begin() + ((y + row) * image_.width + x) * 3);
  }
  std::array<char, 32> time{};
  std::snprintf(time.data(), time.size(), "%.2fs",
                static_cast<double>(frame_at(place)) / static_cast<double>(format_.fps));
  write_text(image_, x, y, std::max<int64_t>(1, frame.width / kSmallestScaled), time.data());
}

void ContactSheet::write(const Path& to, std::string_view metadata) const {
  write_png(to, image_, metadata);
}

}  // namespace fastwan::io
