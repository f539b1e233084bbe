#include "training/metrics_log.h"

#include <array>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <functional>
#include <optional>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

#include "base/check.h"
#include "base/json.h"
#include "base/text.h"

namespace fastwan::training {
namespace {

// Length in bytes of the lines of `text` from `begin` on that a run at `last_step` has behind it.
// `step_of` reads a line's step; InvalidInput where there is none.
int64_t kept_bytes(std::string_view text,
                   int64_t last_step,
                   const std::function<int64_t(std::string_view)>& step_of,
                   std::size_t begin = 0) {
  std::size_t kept = begin;
  while (true) {
    const std::size_t end = text.find('\n', kept);
    if (end == std::string_view::npos) {
      return static_cast<int64_t>(kept);  // what follows is torn
    }
    try {
      if (step_of(text.substr(kept, end - kept)) > last_step) {
        return static_cast<int64_t>(kept);
      }
    } catch (const InvalidInput&) {  // torn by a loss of power: what follows is no better
      return static_cast<int64_t>(kept);
    }
    kept = end + 1;
  }
}

constexpr std::string_view kHeader = "step,metric,value\n";
constexpr int64_t kMaxLogBytes = int64_t{4} << 30;

// Protocol buffers: the wire types that an Event needs.
class Message {
 public:
  void add_double(int field, double value) {
    tag(field, /*wire_type=*/1);
    raw(value);
  }
  void add_float(int field, float value) {
    tag(field, /*wire_type=*/5);
    raw(value);
  }
  void add_integer(int field, int64_t value) {
    tag(field, /*wire_type=*/0);
    varint(static_cast<uint64_t>(value));
  }
  void add_bytes(int field, std::string_view value) {
    tag(field, /*wire_type=*/2);
    varint(value.size());
    bytes_ += value;
  }
  const std::string& bytes() const { return bytes_; }

 private:
  void tag(int field, int wire_type) {
    varint(static_cast<uint64_t>(field) << 3 | static_cast<uint64_t>(wire_type));
  }
  void varint(uint64_t value) {
    while (value >= 0x80) {
      bytes_ += static_cast<char>(value | 0x80);
      value >>= 7;
    }
    bytes_ += static_cast<char>(value);
  }
  template <class T>
  void raw(T value) {
    static_assert(std::endian::native == std::endian::little);
    std::array<char, sizeof(T)> text{};
    std::memcpy(text.data(), &value, sizeof(T));
    bytes_.append(text.data(), text.size());
  }

  std::string bytes_;
};

// Fields of tensorflow.Event, Summary, Summary.Value and SessionLog.
enum EventField { kWallTime = 1, kStep = 2, kFileVersion = 3, kSummary = 5, kSessionLog = 7 };
constexpr int kSummaryValue = 1, kValueTag = 1, kValueSimple = 2;
constexpr int kSessionStatus = 1, kSessionStart = 1;

Message event(double wall_time) {
  Message message;
  message.add_double(kWallTime, wall_time);
  return message;
}

constexpr std::array<uint32_t, 256> crc_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) {
      crc = crc >> 1 ^ ((crc & 1) != 0 ? 0x82F63B78U : 0U);
    }
    table[byte] = crc;
  }
  return table;
}

// As TFRecord wants it, so that a checksum of data that holds checksums stays a good one.
uint32_t masked(uint32_t crc) {
  return (crc >> 15 | crc << 17) + 0xA282EAD8U;
}

template <class T>
std::string little_endian(T value) {
  std::string text(sizeof(T), '\0');
  std::memcpy(text.data(), &value, sizeof(T));
  return text;
}

}  // namespace

AppendFile::AppendFile(Path file) : file_(std::move(file)) {
  descriptor_ = ::open(file_.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (descriptor_ < 0) {
    throw_io_error(errno, file_, "open");
  }
}

AppendFile::~AppendFile() {
  ::close(descriptor_);
}

void AppendFile::append(std::string_view bytes) {
  const ::off_t size = ::lseek(descriptor_, 0, SEEK_END);
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) {
      continue;
    }
    if (written < 0) {
      const int reason = errno;
      // Half a row would make one of it and the next; where it cannot be cut, reading cuts there.
      [[maybe_unused]] const int cut = ::ftruncate(descriptor_, size);
      throw_io_error(reason, file_, "write");
    }
    bytes.remove_prefix(static_cast<std::size_t>(written));
  }
}

void AppendFile::truncate(int64_t bytes) {
  if (::ftruncate(descriptor_, bytes) != 0) {
    throw_io_error(errno, file_, "truncate");
  }
}

void AppendFile::sync() {
  if (::fsync(descriptor_) != 0) {
    throw_io_error(errno, file_, "fsync");
  }
}

MetricsLog::MetricsLog(const Path& file, int64_t last_step) : file_(file) {
  file_.truncate(
      kept_bytes(read_file(file, kMaxLogBytes), last_step, [&file](std::string_view line) {
        return json_get<int64_t>(parse_json(line, file.string()), "step", file.string());
      }));
  file_.sync();
}

void MetricsLog::write(int64_t step, const Metrics& metrics) {
  Json line = {{"step", step}};
  for (const auto& [name, value] : metrics) {
    line[name] = value;
  }
  file_.append(line.dump() + "\n");
}

MetricsTable::MetricsTable(const Path& file, int64_t last_step) : file_(file) {
  const std::string text = read_file(file, kMaxLogBytes);
  if (!text.starts_with(kHeader)) {  // new, or torn in its first line
    file_.truncate(0);
    file_.append(kHeader);
  } else {
    file_.truncate(kept_bytes(
        text, last_step,
        [&file](std::string_view line) {
          const std::optional<int64_t> step = parse_int(line.substr(0, line.find(',')));
          if (!step) {
            throw InvalidInput(Code::kBadValue, str(file.string(), ": a line without its step"));
          }
          return *step;
        },
        kHeader.size()));
  }
  file_.sync();
}

void MetricsTable::write(int64_t step, const Metrics& metrics) {
  std::string lines;
  for (const auto& [name, value] : metrics) {
    lines += str(step, ',', name, ',', std::isfinite(value) ? Json(value).dump() : "", '\n');
  }
  file_.append(lines);
}

EventFile::EventFile(const Path& folder, const Start& start)
    : file_(folder / str("events.out.tfevents.",
                         static_cast<int64_t>(start.wall_time),
                         ".",
                         start.process,
                         ".fastwan")) {
  file_.append(tf_record(version_event(start.wall_time)));
  if (start.resumed_step > 0) {
    file_.append(tf_record(restart_event(start.resumed_step + 1, start.wall_time)));
  }
}

void EventFile::write(int64_t step, double wall_time, const Metrics& metrics) {
  file_.append(tf_record(scalars_event(step, wall_time, metrics)));
}

uint32_t crc32c(std::string_view bytes) {
  static constexpr std::array<uint32_t, 256> kTable = crc_table();
  uint32_t crc = 0xFFFFFFFFU;
  for (const char byte : bytes) {
    crc = crc >> 8 ^ kTable[(crc ^ static_cast<unsigned char>(byte)) & 0xFF];
  }
  return crc ^ 0xFFFFFFFFU;
}

std::string tf_record(std::string_view data) {
  const std::string length = little_endian(static_cast<uint64_t>(data.size()));
  return length + little_endian(masked(crc32c(length))) + std::string(data) +
         little_endian(masked(crc32c(data)));
}

std::string version_event(double wall_time) {
  Message message = event(wall_time);
  message.add_bytes(kFileVersion, "brain.Event:2");
  return message.bytes();
}

std::string restart_event(int64_t step, double wall_time) {
  Message log;
  log.add_integer(kSessionStatus, kSessionStart);
  Message message = event(wall_time);
  message.add_integer(kStep, step);
  message.add_bytes(kSessionLog, log.bytes());
  return message.bytes();
}

std::string scalars_event(int64_t step, double wall_time, const Metrics& metrics) {
  Message summary;
  for (const auto& [name, number] : metrics) {
    Message value;
    value.add_bytes(kValueTag, name);
    value.add_float(kValueSimple, static_cast<float>(number));
    summary.add_bytes(kSummaryValue, value.bytes());
  }
  Message message = event(wall_time);
  message.add_integer(kStep, step);
  message.add_bytes(kSummary, summary.bytes());
  return message.bytes();
}

}  // namespace fastwan::training
