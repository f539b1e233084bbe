#include "io/media_metadata.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <functional>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

#include "base/check.h"
#include "base/text.h"
#include "io/image_header.h"
#include "io/media_bytes.h"
#include "io/mp4.h"

namespace fastwan::io {
namespace {

constexpr int64_t kMaxTextBytes = int64_t{1} << 20;
// An XMP packet is larger than its text: quotes become six bytes.
constexpr int64_t kMaxPacketBytes = 8 * kMaxTextBytes;
constexpr int64_t kMaxPieces = 10'000;  // chunks, blocks, elements beside each other

constexpr std::string_view kPngStart("\x89PNG\r\n\x1a\n", 8);
constexpr std::string_view kMatroskaStart("\x1A\x45\xDF\xA3", 4);
constexpr std::string_view kJpegStart("\xFF\xD8\xFF", 3);

using Text = std::optional<std::string>;

std::string read_bounded(const MediaBytes& bytes, ByteRange range, int64_t limit) {
  if (range.size() > limit) {
    bytes.throw_bad(str("a text of ", range.size(), " bytes, at most ", limit, " are read"),
                    range.begin);
  }
  return bytes.read(range.begin, range.size());
}

// Files of others have comments too; ours is one JSON object.
Text only_json(Text text) {
  if (!text) {
    return std::nullopt;
  }
  const std::string_view trimmed = trim(*text);
  if (!trimmed.starts_with('{') || !trimmed.ends_with('}') || !is_valid_utf8(trimmed)) {
    return std::nullopt;
  }
  return std::string(trimmed);
}

Text first_of(std::initializer_list<Text> texts) {
  for (const Text& text : texts) {
    if (Text json = only_json(text)) {
      return json;
    }
  }
  return std::nullopt;
}

// --- mp4 ---

Text read_mp4(const MediaBytes& bytes) {
  const Mp4Texts texts = read_mp4_texts(bytes);
  return first_of({texts.comment, texts.description,
                   texts.xmp ? text_of_xmp_packet(*texts.xmp) : std::nullopt});
}

// --- png ---

// "keyword" 0 text, or "keyword" 0, compressed?, method, language 0, translated keyword 0 text.
Text text_of_png_chunk(std::string_view type, std::string_view content) {
  const std::string start = std::string(kPngMetadataKeyword) + '\0';
  if (!content.starts_with(start)) {
    return std::nullopt;
  }
  content.remove_prefix(start.size());
  if (type == "tEXt") {
    return std::string(content);
  }
  if (content.size() < 2 || content[0] != '\0') {  // we write no compressed text
    return std::nullopt;
  }
  content.remove_prefix(2);
  for (int i = 0; i < 2; ++i) {
    const std::size_t end = content.find('\0');
    if (end == std::string_view::npos) {
      return std::nullopt;
    }
    content.remove_prefix(end + 1);
  }
  return std::string(content);
}

Text read_png(const MediaBytes& bytes) {
  constexpr int64_t kHeader = 8;  // size, type
  constexpr int64_t kChecksum = 4;
  constexpr int64_t kKeywordAndLanguage = 1024;
  int64_t at = static_cast<int64_t>(kPngStart.size());
  for (int64_t count = 0; count < kMaxPieces && bytes.has(at, kHeader); ++count) {
    const std::string header = bytes.read(at, kHeader);
    const auto size = static_cast<int64_t>(big_endian(header.substr(0, 4)));
    const std::string type = header.substr(4);
    if (!bytes.has(at + kHeader, size + kChecksum)) {
      bytes.throw_bad(str("chunk ", escape_control(type), " says ", size, " bytes"), at);
    }
    if (type == "IEND") {
      return std::nullopt;
    }
    if (type == "iTXt" || type == "tEXt") {
      const ByteRange range{at + kHeader, at + kHeader + size};
      if (Text text = text_of_png_chunk(
              type, read_bounded(bytes, range, kMaxTextBytes + kKeywordAndLanguage))) {
        return only_json(std::move(text));
      }
    }
    at += kHeader + size + kChecksum;
  }
  return std::nullopt;
}

// --- webm, mkv (RFC 8794) ---

struct Element {
  uint64_t id = 0;
  ByteRange content;
};

// A number of 1 to 8 bytes; the leading zeros of the first byte tell how many.
struct VariableInt {
  uint64_t value = 0;  // with the length marker
  int length = 0;
  uint64_t without_marker() const { return value & ~(uint64_t{1} << (7 * length)); }
  bool is_unknown() const { return without_marker() == (uint64_t{1} << (7 * length)) - 1; }
};

VariableInt read_variable_int(const MediaBytes& bytes, int64_t at, int64_t end) {
  const auto first = at < end ? static_cast<unsigned char>(bytes.read(at, 1)[0]) : 0U;
  VariableInt number;
  for (int length = 1; length <= 8; ++length) {
    if ((first & (0x80U >> (length - 1))) != 0) {
      number.length = length;
      break;
    }
  }
  if (number.length == 0 || end - at < number.length) {
    bytes.throw_bad("a broken element", at);
  }
  number.value = big_endian(bytes.read(at, number.length));
  return number;
}

// Ends early when `use` says so.
void for_each_element(const MediaBytes& bytes,
                      ByteRange range,
                      const std::function<bool(const Element&)>& use) {
  for (int64_t count = 0; range.begin < range.end; ++count) {
    if (count >= kMaxPieces) {
      return;  // a long film: its tags stand before or after so many clusters; not our file
    }
    const VariableInt id = read_variable_int(bytes, range.begin, range.end);
    const VariableInt size = read_variable_int(bytes, range.begin + id.length, range.end);
    const int64_t begin = range.begin + id.length + size.length;
    const auto room = static_cast<uint64_t>(range.end - begin);
    const uint64_t content = size.is_unknown() ? room : size.without_marker();
    if (content > room) {
      bytes.throw_bad(str("an element says ", content, " bytes, there are ", room), range.begin);
    }
    const Element element{id.value, {begin, begin + static_cast<int64_t>(content)}};
    if (!use(element)) {
      return;
    }
    range.begin = element.content.end;
  }
}

constexpr uint64_t kSegment = 0x18538067;
constexpr uint64_t kTags = 0x1254C367;
constexpr uint64_t kTag = 0x7373;
constexpr uint64_t kSimpleTag = 0x67C8;
constexpr uint64_t kTagName = 0x45A3;
constexpr uint64_t kTagString = 0x4487;

Text text_of_simple_tag(const MediaBytes& bytes, ByteRange range) {
  constexpr int64_t kMaxName = 256;
  std::string name;
  Text text;
  for_each_element(bytes, range, [&](const Element& element) {
    if (element.id == kTagName) {
      name = read_bounded(bytes, element.content, kMaxName);
    } else if (element.id == kTagString) {
      text = read_bounded(bytes, element.content, kMaxTextBytes);
    }
    return true;
  });
  return name == "COMMENT" || name == "DESCRIPTION" ? only_json(std::move(text)) : std::nullopt;
}

constexpr std::array<uint64_t, 4> kPathToTag = {kSegment, kTags, kTag, kSimpleTag};

Text find_tag(const MediaBytes& bytes, ByteRange range, std::size_t level = 0) {
  if (level == kPathToTag.size()) {
    return text_of_simple_tag(bytes, range);
  }
  Text found;
  for_each_element(bytes, range, [&](const Element& element) {
    if (element.id == kPathToTag[level]) {
      found = find_tag(bytes, element.content, level + 1);
    }
    return !found;
  });
  return found;
}

// --- gif ---

// Data in pieces of 1 to 255 bytes, each after its length; a length of 0 ends it. Returns where it
// ends; `text` collects the pieces, null to skip them.
int64_t read_sub_blocks(const MediaBytes& bytes, int64_t at, std::string* text) {
  while (true) {
    const auto size = static_cast<int64_t>(big_endian(bytes.read(at, 1)));
    if (size == 0) {
      return at + 1;
    }
    if (text != nullptr) {
      if (static_cast<int64_t>(text->size()) > kMaxTextBytes) {
        bytes.throw_bad("a comment above 1 MiB", at);
      }
      *text += bytes.read(at + 1, size);
    }
    at += 1 + size;
  }
}

// Bytes of a colour table, from the packed field that announces it.
int64_t color_table_bytes(unsigned char packed) {
  return (packed & 0x80) != 0 ? int64_t{3} << ((packed & 7) + 1) : 0;
}

Text read_gif(const MediaBytes& bytes) {
  constexpr int64_t kScreenHeader = 13;
  constexpr int64_t kImageHeader = 10;  // with its leading comma
  const std::string header = bytes.read(0, kScreenHeader);
  int64_t at = kScreenHeader + color_table_bytes(static_cast<unsigned char>(header[10]));
  for (int64_t count = 0; count < kMaxPieces; ++count) {
    const std::string start = bytes.read_some(at, 2);
    if (start.size() == 2 && start[0] == '!') {
      std::string text;
      const bool is_comment = start[1] == '\xFE';
      at = read_sub_blocks(bytes, at + 2, is_comment ? &text : nullptr);
      if (Text json = is_comment ? only_json(std::move(text)) : std::nullopt) {
        return json;
      }
    } else if (start.size() == 2 && start[0] == ',') {
      const std::string image = bytes.read(at, kImageHeader);
      at += kImageHeader + color_table_bytes(static_cast<unsigned char>(image[9]));
      at = read_sub_blocks(bytes, at + 1, nullptr);  // after the LZW code size
    } else {
      return std::nullopt;  // the trailer, or what we do not know
    }
  }
  return std::nullopt;
}

// --- jpg ---

constexpr std::string_view kJpegCommentStart = "fastwan ";  // pieces of one text, in order

Text read_jpeg(const MediaBytes& bytes) {
  constexpr char kComment = '\xFE';
  std::string text;
  for_each_jpeg_segment(bytes, [&](const JpegSegment& segment) {
    if (segment.marker == kComment && segment.content.size() <= 0xFFFF) {
      const std::string content = bytes.read(segment.content.begin, segment.content.size());
      if (content.starts_with(kJpegCommentStart) &&
          static_cast<int64_t>(text.size()) <= kMaxTextBytes) {
        text += content.substr(kJpegCommentStart.size());
      }
    }
    return true;
  });
  return only_json(std::move(text));
}

std::string jpeg_comments(std::string_view text) {
  constexpr std::size_t kMaxPiece = 65'000;  // a segment has at most 65,533 bytes
  std::string segments;
  while (!text.empty()) {
    const std::string_view piece = text.substr(0, kMaxPiece);
    segments += "\xFF\xFE" + to_big_endian(piece.size() + kJpegCommentStart.size() + 2, 2);
    segments += kJpegCommentStart;
    segments += piece;
    text.remove_prefix(piece.size());
  }
  return segments;
}

// --- webp ---

Text read_webp(const MediaBytes& bytes) {
  Text found;
  for_each_webp_chunk(bytes, [&](const WebpChunk& chunk) {
    if (chunk.type == "XMP ") {
      found = only_json(text_of_xmp_packet(read_bounded(bytes, chunk.content, kMaxPacketBytes)));
    }
    return !found;
  });
  return found;
}

std::string webp_chunk(std::string_view type, std::string_view content) {
  std::string chunk(type);
  chunk += to_little_endian(content.size(), 4);
  chunk += content;
  return content.size() % 2 == 0 ? chunk : chunk + '\0';
}

// Only an "extended" file, one that starts with VP8X, may have an XMP chunk; the others get that
// chunk first.
std::string webp_with_xmp(const Path& file, std::string_view packet) {
  constexpr std::size_t kRiffHeader = 12;  // "RIFF", size, "WEBP"
  constexpr std::size_t kFlags = kRiffHeader + 8;
  constexpr char kHasXmp = 0x04;
  std::string content = read_file(file);
  if (content.compare(kRiffHeader, 4, "VP8X") != 0) {
    const FrameSize size = read_header(MediaBytes(file)).size;
    const std::string extended = std::string(4, '\0') +
                                 to_little_endian(static_cast<uint64_t>(size.width - 1), 3) +
                                 to_little_endian(static_cast<uint64_t>(size.height - 1), 3);
    content.insert(kRiffHeader, webp_chunk("VP8X", extended));
  }
  content.at(kFlags) = static_cast<char>(content.at(kFlags) | kHasXmp);
  content += webp_chunk("XMP ", packet);
  return content.replace(4, 4, to_little_endian(content.size() - 8, 4));
}

// --- writing ---

void write_at(const Path& file, int64_t offset, std::string_view bytes) {
  const Descriptor opened(::open(file.c_str(), O_WRONLY | O_CLOEXEC));
  if (!opened.is_open()) {
    throw_io_error(errno, file, "open");
  }
  while (!bytes.empty()) {
    const ssize_t written = ::pwrite(opened.get(), bytes.data(), bytes.size(), offset);
    if (written < 0 && errno == EINTR) {
      continue;
    }
    if (written < 0) {
      throw_io_error(errno, file, "write");
    }
    bytes.remove_prefix(static_cast<std::size_t>(written));
    offset += written;
  }
}

std::string gif_comment(std::string_view text) {
  constexpr std::size_t kMaxPiece = 255;
  std::string block = "!\xFE";
  while (!text.empty()) {
    const std::string_view piece = text.substr(0, kMaxPiece);
    block += static_cast<char>(piece.size());
    block += piece;
    text.remove_prefix(piece.size());
  }
  return block + '\0';
}

constexpr std::array<std::pair<std::string_view, std::string_view>, 3> kXmlEscapes = {
    {{"<", "&lt;"}, {">", "&gt;"}, {"&", "&amp;"}}};
constexpr std::string_view kXmpTextStart = "<rdf:li xml:lang=\"x-default\">";
constexpr std::string_view kXmpTextEnd = "</rdf:li>";

}  // namespace

std::optional<std::string> read_media_metadata(const Path& file) {
  const MediaBytes bytes(file);
  const std::string start = bytes.read_some(0, 16);
  if (is_mp4(bytes)) {
    return read_mp4(bytes);
  }
  if (start.starts_with(kPngStart)) {
    return read_png(bytes);
  }
  if (start.starts_with(kMatroskaStart)) {
    return find_tag(bytes, {0, bytes.size()});
  }
  if (start.starts_with("GIF8")) {
    return read_gif(bytes);
  }
  if (start.starts_with(kJpegStart)) {
    return read_jpeg(bytes);
  }
  if (start.starts_with("RIFF") && bytes.has(8, 4) && start.substr(8, 4) == "WEBP") {
    return read_webp(bytes);
  }
  return std::nullopt;
}

void require_metadata_text(std::string_view text) {
  if (!is_valid_utf8(text)) {
    throw InvalidInput(Code::kNotUtf8, "metadata must be UTF-8");
  }
  if (text.find('\0') != std::string_view::npos) {
    throw InvalidInput(Code::kBadValue, "metadata must not hold a NUL byte");
  }
  if (static_cast<int64_t>(text.size()) > kMaxTextBytes) {
    throw InvalidInput(Code::kBadValue,
                       str("metadata must have at most ", kMaxTextBytes, " bytes, got ",
                           text.size(), ". Shorten the prompt or give --metadata minimal"));
  }
}

std::string ffmetadata_text(std::string_view metadata) {
  std::string escaped;
  for (const char c : metadata) {
    if (std::string_view("=;#\\\n").find(c) != std::string_view::npos) {
      escaped += '\\';
    }
    escaped += c;
  }
  return str(";FFMETADATA1\ncomment=", escaped, "\ndescription=", escaped, "\n");
}

std::string xmp_packet(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    const auto* const special =
        std::find_if(kXmlEscapes.begin(), kXmlEscapes.end(),
                     [c](const auto& escape) { return escape.first[0] == c; });
    escaped += special == kXmlEscapes.end() ? std::string_view(&c, 1) : special->second;
  }
  return str("<?xpacket begin=\"\xEF\xBB\xBF\" id=\"W5M0MpCehiHzreSzNTczkc9d\"?>\n",
             "<x:xmpmeta xmlns:x=\"adobe:ns:meta/\">\n",
             " <rdf:RDF xmlns:rdf=\"http://www.w3.org/1999/02/22-rdf-syntax-ns#\">\n",
             "  <rdf:Description rdf:about=\"\" xmlns:dc=\"http://purl.org/dc/elements/1.1/\">\n",
             "   <dc:description><rdf:Alt>", kXmpTextStart, escaped, kXmpTextEnd,
             "</rdf:Alt></dc:description>\n", "  </rdf:Description>\n </rdf:RDF>\n</x:xmpmeta>\n",
             "<?xpacket end=\"r\"?>\n");
}

std::optional<std::string> text_of_xmp_packet(std::string_view packet) {
  const std::size_t start = packet.find(kXmpTextStart);
  if (start == std::string_view::npos) {
    return std::nullopt;
  }
  packet.remove_prefix(start + kXmpTextStart.size());
  const std::size_t end = packet.find(kXmpTextEnd);
  if (end == std::string_view::npos) {
    return std::nullopt;
  }
  std::string text(packet.substr(0, end));
  for (const auto& [plain, escaped] : kXmlEscapes) {  // & last: "&amp;lt;" is "&lt;"
    text = replace_all(std::move(text), escaped, plain);
  }
  return text;
}

void add_media_metadata(const Path& file, std::string_view metadata) {
  const MediaBytes bytes(file);
  const std::string start = bytes.read_some(0, 16);
  if (is_mp4(bytes)) {
    write_at(file, bytes.size(), xmp_uuid_box(xmp_packet(metadata)));
  } else if (start.starts_with("GIF8")) {
    invariant(bytes.read(bytes.size() - 1, 1) == ";", "a gif ends with its trailer");
    write_at(file, bytes.size() - 1, gif_comment(metadata) + ";");
  } else if (start.starts_with("RIFF")) {
    write_at(file, 0, webp_with_xmp(file, xmp_packet(metadata)));
  } else if (start.starts_with(kJpegStart)) {
    // Before everything but the first segment: JFIF wants to be first.
    constexpr std::size_t kMarker = 2;
    std::string content = read_file(file);
    const bool has_jfif = content.compare(kMarker, 2, "\xFF\xE0") == 0;
    const std::size_t at =
        has_jfif ? 2 * kMarker + big_endian(std::string_view(content).substr(4, 2)) : kMarker;
    write_at(file, 0, content.insert(at, jpeg_comments(metadata)));
  }
}

}  // namespace fastwan::io
