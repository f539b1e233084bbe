// What a training run reports: metrics.jsonl, metrics.csv and TensorBoard event files.
//
// metrics.jsonl  one object a line: "step" and numbers by name, written so that they read back as
//                the same bits; NaN and infinity are null. Append only: a kill leaves at most one
//                torn last line
// metrics.csv    step,metric,value: a line a number, values as above, empty where they are no
// number events.out.*   TFRecord frames (length, masked CRC-32C of it, data, masked CRC-32C of the
// data)
//                around Event messages with simple scalar values
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "base/files.h"

namespace fastwan::training {

using Metrics = std::map<std::string, double>;

// A file that is only appended to; each append is one write, and one that fails leaves nothing.
class AppendFile {
 public:
  explicit AppendFile(Path file);
  ~AppendFile();
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;
  void append(std::string_view bytes);
  void truncate(int64_t bytes);
  void sync();

 private:
  Path file_;
  int descriptor_ = -1;
};

class MetricsLog {
 public:
  // Lines of steps beyond `last_step`, from the first such line on, and a torn last line are cut: a
  // run that goes on from step k writes the lines behind k again.
  MetricsLog(const Path& file, int64_t last_step);
  void write(int64_t step, const Metrics& metrics);
  void sync() { file_.sync(); }  // before a checkpoint says that these steps are done

 private:
  AppendFile file_;
};

class MetricsTable {
 public:
  // Cuts as MetricsLog does; a new file begins with its header.
  MetricsTable(const Path& file, int64_t last_step);
  void write(int64_t step, const Metrics& metrics);
  void sync() { file_.sync(); }

 private:
  AppendFile file_;
};

class EventFile {
 public:
  struct Start {
    int64_t resumed_step = 0;  // what was logged for later steps no longer counts
    double wall_time = 0;      // seconds since 1970
    int64_t process = 0;       // two files of one second must not share a name
  };
  // A new file events.out.tfevents.<seconds>.<process>.fastwan in `folder`.
  EventFile(const Path& folder, const Start& start);
  void write(int64_t step, double wall_time, const Metrics& metrics);
  void sync() { file_.sync(); }

 private:
  AppendFile file_;
};

// Of EventFile, tested on their own. CRC-32C: Castagnoli's polynomial, reflected 0x82F63B78.
uint32_t crc32c(std::string_view bytes);
std::string tf_record(std::string_view data);
// Event messages, serialised.
std::string version_event(double wall_time);
std::string restart_event(int64_t step, double wall_time);
std::string scalars_event(int64_t step, double wall_time, const Metrics& metrics);

}  // namespace fastwan::training
