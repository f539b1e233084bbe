#include "io/mp4.h"

#include <functional>

#include "base/text.h"

namespace fastwan::io {
namespace {

constexpr int64_t kMaxBoxes = 10'000;
constexpr int64_t kMaxTextBytes = int64_t{1} << 20;
constexpr int64_t kUuidBytes = 16;
constexpr std::string_view kXmpUuid(
    "\xBE\x7A\xCF\xCB\x97\xA9\x42\xE8\x9C\x71\x99\x94\x91\xE3\xAF\xAC", kUuidBytes);

struct Box {
  std::string type;
  ByteRange content;
};

// One box at `offset`, which ends at `end` at the latest. Size 0: up to the end; size 1: 64 bits
// follow.
Box read_box(const MediaBytes& bytes, int64_t offset, int64_t end) {
  constexpr int64_t kShortHeader = 8;
  constexpr int64_t kLongHeader = 16;
  if (end - offset < kShortHeader) {
    bytes.throw_bad("a box shorter than its header", offset);
  }
  const std::string header = bytes.read(offset, kShortHeader);
  uint64_t size = big_endian(std::string_view(header).substr(0, 4));
  int64_t header_bytes = kShortHeader;
  if (size == 1) {
    if (end - offset < kLongHeader) {
      bytes.throw_bad("a box shorter than its header", offset);
    }
    size = big_endian(bytes.read(offset + kShortHeader, 8));
    header_bytes = kLongHeader;
  } else if (size == 0) {
    size = static_cast<uint64_t>(end - offset);
  }
  if (size < static_cast<uint64_t>(header_bytes) || size > static_cast<uint64_t>(end - offset)) {
    bytes.throw_bad(str("box ", escape_control(header.substr(4)), " says ", size, " bytes, wanted ",
                        header_bytes, " to ", end - offset),
                    offset);
  }
  return {header.substr(4), {offset + header_bytes, offset + static_cast<int64_t>(size)}};
}

void for_each_box(const MediaBytes& bytes,
                  ByteRange range,
                  const std::function<void(const Box&)>& use) {
  int64_t count = 0;
  while (range.begin < range.end) {
    if (++count > kMaxBoxes) {
      bytes.throw_bad(str("more than ", kMaxBoxes, " boxes beside each other"), range.begin);
    }
    const Box box = read_box(bytes, range.begin, range.end);
    use(box);
    range.begin = box.content.end;
  }
}

// The first child of this type.
std::optional<ByteRange> find_box(const MediaBytes& bytes, ByteRange range, std::string_view type) {
  std::optional<ByteRange> found;
  for_each_box(bytes, range, [&](const Box& box) {
    if (!found && box.type == type) {
      found = box.content;
    }
  });
  return found;
}

std::string read_text(const MediaBytes& bytes, ByteRange range) {
  if (range.size() > kMaxTextBytes) {
    bytes.throw_bad(str("a text of ", range.size(), " bytes, at most ", kMaxTextBytes, " are read"),
                    range.begin);
  }
  return bytes.read(range.begin, range.size());
}

// An item of ilst holds `data`: type, locale, then the text.
std::optional<std::string> read_item(const MediaBytes& bytes, ByteRange item) {
  constexpr int64_t kTypeAndLocale = 8;
  std::optional<ByteRange> data = find_box(bytes, item, "data");
  if (!data || data->size() < kTypeAndLocale) {
    return std::nullopt;
  }
  data->begin += kTypeAndLocale;
  return read_text(bytes, *data);
}

std::optional<ByteRange> find_item_list(const MediaBytes& bytes, ByteRange movie) {
  constexpr int64_t kVersionAndFlags = 4;
  const std::optional<ByteRange> user_data = find_box(bytes, movie, "udta");
  std::optional<ByteRange> meta =
      user_data ? find_box(bytes, *user_data, "meta") : std::optional<ByteRange>();
  if (!meta || meta->size() < kVersionAndFlags) {
    return std::nullopt;
  }
  meta->begin += kVersionAndFlags;
  return find_box(bytes, *meta, "ilst");
}

}  // namespace

bool is_mp4(const MediaBytes& bytes) {
  return bytes.read_some(4, 4) == "ftyp";
}

Mp4Texts read_mp4_texts(const MediaBytes& bytes) {
  Mp4Texts texts;
  std::optional<ByteRange> movie;
  for_each_box(bytes, {0, bytes.size()}, [&](const Box& box) {
    if (box.type == "moov" && !movie) {
      movie = box.content;
    } else if (box.type == "uuid" && !texts.xmp && box.content.size() >= kUuidBytes &&
               bytes.read(box.content.begin, kUuidBytes) == kXmpUuid) {
      texts.xmp = read_text(bytes, {box.content.begin + kUuidBytes, box.content.end});
    }
  });
  const std::optional<ByteRange> items =
      movie ? find_item_list(bytes, *movie) : std::optional<ByteRange>();
  if (items) {
    for_each_box(bytes, *items, [&](const Box& box) {
      if (box.type ==
              "\xA9"
              "cmt" &&
          !texts.comment) {
        texts.comment = read_item(bytes, box.content);
      } else if (box.type == "desc" && !texts.description) {
        texts.description = read_item(bytes, box.content);
      }
    });
  }
  return texts;
}

std::string xmp_uuid_box(std::string_view packet) {
  constexpr std::size_t kHeader = 8;
  std::string box = to_big_endian(kHeader + kUuidBytes + packet.size(), 4);
  box += "uuid";
  box += kXmpUuid;
  box += packet;
  return box;
}

}  // namespace fastwan::io
