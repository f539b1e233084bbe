#include "training/metrics_log.h"

#include <cmath>
#include <csignal>
#include <fstream>
#include <limits>

#include <gtest/gtest.h>
#include <sys/resource.h>

#include "base/check.h"
#include "base/json.h"
#include "base/text.h"

namespace fastwan::training {
namespace {

std::string unhex(std::string_view digits) {
  std::string bytes;
  for (std::size_t i = 0; i < digits.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(std::string(digits.substr(i, 2)), nullptr, 16));
  }
  return bytes;
}

TEST(MetricsLog, NumbersReadBackAsTheSameBits) {
  TempFolder folder;
  const Path file = folder.where() / "metrics.jsonl";
  const double awkward = 0.1 + 0.2, tiny = 4.9e-324;
  {
    MetricsLog log(file, 0);
    log.write(1, {{"train_loss", awkward}, {"grad_norm", tiny}});
    log.write(2, {{"train_loss", std::nan("")}});
  }
  const std::vector<std::string> lines = split(read_file(file), '\n');
  ASSERT_EQ(lines.size(), 3u);  // the last is what follows the final newline: nothing
  const Json first = parse_json(lines[0], "line 1");
  EXPECT_EQ(first.begin().key(), "step");
  EXPECT_EQ(first.at("step").get<int64_t>(), 1);
  EXPECT_EQ(first.at("train_loss").get<double>(), awkward);
  EXPECT_EQ(first.at("grad_norm").get<double>(), tiny);
  EXPECT_TRUE(parse_json(lines[1], "line 2").at("train_loss").is_null());
}

// A file that may not grow takes the first bytes of a row and then no more, as a full disk does.
TEST(AppendFile, ARowThatDoesNotFitLeavesNothingOfItself) {
  TempFolder folder;
  const Path file = folder.where() / "rows";
  AppendFile rows(file);
  rows.append("first row\n");
  struct rlimit before {};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  struct rlimit tight = before;
  tight.rlim_cur = 14;
  const auto old = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &tight), 0);
  EXPECT_THROW(rows.append("second row\n"), IoError);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, old);
  EXPECT_EQ(read_file(file), "first row\n");
  rows.append("third row\n");
  EXPECT_EQ(read_file(file), "first row\nthird row\n");
}

TEST(MetricsTable, ALineANumberAndAResumeCutsWhatItWillWriteAgain) {
  TempFolder folder;
  const Path file = folder.where() / "metrics.csv";
  {
    MetricsTable table(file, 0);
    table.write(1, {{"grad_norm", 0.1 + 0.2}, {"train_loss", std::nan("")}});
    table.write(2, {{"train_loss", -1.5}});
  }
  const std::string first = "step,metric,value\n1,grad_norm,0.30000000000000004\n1,train_loss,\n";
  EXPECT_EQ(read_file(file), first + "2,train_loss,-1.5\n");
  std::ofstream(file, std::ios::app) << "3,train_l";  // killed while it wrote
  { const MetricsTable table(file, 2); }
  EXPECT_EQ(read_file(file), first + "2,train_loss,-1.5\n");
  { const MetricsTable table(file, 1); }
  EXPECT_EQ(read_file(file), first);
  std::ofstream(file) << "step,met";
  { const MetricsTable table(file, 1); }
  EXPECT_EQ(read_file(file), "step,metric,value\n");
}

TEST(MetricsLog, AResumeCutsWhatItWillWriteAgain) {
  TempFolder folder;
  const Path file = folder.where() / "metrics.jsonl";
  std::string all;
  {
    MetricsLog log(file, 0);
    for (int64_t step = 1; step <= 6; ++step) {
      log.write(step, {{"train_loss", 1.0 / static_cast<double>(step)}});
    }
    all = read_file(file);
  }
  std::ofstream(file, std::ios::app) << "{\"step\":7,\"train_l";  // killed while it wrote
  for (const int64_t kept : {6, 4, 4, 0}) {
    { const MetricsLog log(file, kept); }
    std::size_t end = 0;
    for (int64_t line = 0; line < kept; ++line) {
      end = all.find('\n', end) + 1;
    }
    EXPECT_EQ(read_file(file), all.substr(0, end)) << kept;
  }
  {
    MetricsLog log(file, 0);
    for (int64_t step = 1; step <= 6; ++step) {
      log.write(step, {{"train_loss", 1.0 / static_cast<double>(step)}});
    }
  }
  EXPECT_EQ(read_file(file), all);
}

// The check value of every CRC catalogue, and RFC 3720, B.4.
TEST(Crc32c, MatchesThePublishedValues) {
  EXPECT_EQ(crc32c("123456789"), 0xE3069283U);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAU);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62A8AB43U);
}

// Bytes of tensorboard 2.21's RecordWriter around its own Event messages.
TEST(EventFile, IsByteForByteWhatTensorBoardWrites) {
  TempFolder folder;
  {
    EventFile file(folder.where(),
                   {.resumed_step = 300, .wall_time = 1700000000.25, .process = 42});
    file.write(301, 1700000001.5, {{"train_loss", 0.2765}, {"grad_norm", 1.118}});
  }
  EXPECT_EQ(read_file(folder.where() / "events.out.tfevents.1700000000.42.fastwan"),
            unhex("1800000000000000a37f4b220900001040fc54d9411a0d627261696e2e4576656e743a32338d2fe9"
                  "100000000000000095fbfe180900001040fc54d94110ad023a020801cb79b93b"
                  "33000000000000000ca720560900006040fc54d94110ad022a250a100a09677261645f6e6f726d"
                  "15a01a8f3f0a110a0a747261696e5f6c6f73731568918d3e8c8219d6"));
  EXPECT_EQ(tf_record(version_event(1700000000.25)),
            unhex("1800000000000000a37f4b220900001040fc54d9411a0d627261696e2e4576656e743a32338d2f"
                  "e9"));
}

}  // namespace
}  // namespace fastwan::training
