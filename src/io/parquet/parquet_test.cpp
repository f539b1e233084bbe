// Files written here are read here; tests/data reads them with pyarrow and the other way round.
#include "io/parquet.h"

#include <bit>
#include <cstring>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/check.h"
#include "base/text.h"
#include "support/message_of.h"

namespace fastwan::io {
namespace {

using ::testing::HasSubstr;
using testing::message_of;

std::string bytes_of(const std::vector<float>& values) {
  std::string bytes(values.size() * sizeof(float), '\0');
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

Row row_of(int64_t i) {
  const auto value = static_cast<float>(i);
  Row row;
  row["id"] = str("clip-", i);
  row["vae_latent"] = TensorCell{
      Dtype::kF32, {2, 1, 1, 3}, bytes_of({value, -value, 0.5F, 1e-20F, 3e20F, value / 3})};
  row["text_embedding"] = TensorCell{
      Dtype::kBf16, {1 + i % 2, 2}, std::string(static_cast<std::size_t>(4 + i % 2 * 4), 'b')};
  row["file_name"] = str("a/", i, ".mp4");
  row["caption"] = i == 3 ? std::string() : str("Ein schöner Tag ", i);
  row["media_type"] = std::string("video");
  row["width"] = i * 16;
  row["height"] = i * 8;
  row["num_frames"] = int64_t{1} << 40;
  row["duration_sec"] = 1.25;
  if (i % 2 == 0) {
    row["fps"] = 16.0;
  }
  return row;
}

void write_rows(const Path& to, int64_t rows, int64_t group_rows) {
  const auto writer = create_rows(to, {.schema = RowSchema::kT2v, .group_rows = group_rows});
  for (int64_t i = 0; i < rows; ++i) {
    writer->write(row_of(i));
  }
  writer->finish();
}

void expect_equal(const Row& got, const Row& wanted) {
  for (const Column& column : columns_of(RowSchema::kT2v)) {
    SCOPED_TRACE(column.name);
    const auto found = wanted.find(column.name);
    const Cell expected = found == wanted.end() ? Cell{} : found->second;
    ASSERT_TRUE(got.contains(column.name));
    const Cell& cell = got.at(column.name);
    ASSERT_EQ(cell.index(), expected.index());
    if (const auto* tensor = std::get_if<TensorCell>(&cell)) {
      const auto& other = std::get<TensorCell>(expected);
      EXPECT_EQ(tensor->dtype, other.dtype);
      EXPECT_EQ(tensor->shape, other.shape);
      EXPECT_EQ(tensor->bytes, other.bytes);
    } else if (const auto* text = std::get_if<std::string>(&cell)) {
      EXPECT_EQ(*text, std::get<std::string>(expected));
    } else if (const auto* number = std::get_if<int64_t>(&cell)) {
      EXPECT_EQ(*number, std::get<int64_t>(expected));
    } else if (const auto* real = std::get_if<double>(&cell)) {
      EXPECT_EQ(*real, std::get<double>(expected));
    }
  }
}

RowReaderOptions all_columns(int64_t cache_bytes = 1 << 20) {
  return {.columns = columns_of(RowSchema::kT2v), .cache_bytes = cache_bytes};
}

class Parquet : public ::testing::Test {
 protected:
  Path file(const std::string& name) const { return folder_.where() / name; }
  TempFolder folder_;
};

TEST_F(Parquet, rows_come_back_whatever_the_row_groups_and_the_order) {
  for (const int64_t group_rows : {1, 2, 3, 64}) {
    const Path to = file(str("g", group_rows, ".parquet"));
    write_rows(to, 7, group_rows);
    for (const int64_t cache : {int64_t{0}, int64_t{1} << 20}) {
      const auto rows = open_rows({to}, all_columns(cache));
      ASSERT_EQ(rows->rows(), 7);
      for (const int64_t i : {6, 0, 3, 3, 5, 1, 2, 4}) {
        SCOPED_TRACE(str(group_rows, " rows a group, cache ", cache, ", row ", i));
        expect_equal(rows->read(i), row_of(i));
      }
    }
  }
}

TEST_F(Parquet, a_row_group_that_fits_the_cache_is_decoded_once) {
  write_rows(file("a.parquet"), 8, 4);
  const auto cached = open_rows({file("a.parquet")}, all_columns());
  for (int64_t i = 0; i < 24; ++i) {
    cached->read(i * 5 % 8);
  }
  EXPECT_EQ(cached->groups_decoded(), 2);
  const auto uncached = open_rows({file("a.parquet")}, all_columns(0));
  for (int64_t i = 0; i < 8; ++i) {
    uncached->read(i);
  }
  EXPECT_EQ(uncached->groups_decoded(), 8);
}

TEST_F(Parquet, the_cache_lets_go_of_what_was_not_used_for_longest) {
  const auto writer = create_rows(file("a.parquet"), {.group_rows = 2});
  for (int64_t i = 0; i < 6; ++i) {
    Row row = row_of(i);
    row["vae_latent"] = TensorCell{Dtype::kF32, {2500}, std::string(10'000, static_cast<char>(i))};
    writer->write(row);
  }
  writer->finish();
  // Room for two of the three groups of 20 kB.
  const auto rows = open_rows({file("a.parquet")}, all_columns(50'000));
  const auto decoded_after = [&rows](int64_t row) {
    EXPECT_EQ(std::get<TensorCell>(rows->read(row).at("vae_latent")).bytes[0],
              static_cast<char>(row));
    return rows->groups_decoded();
  };
  EXPECT_EQ(decoded_after(0), 1);
  EXPECT_EQ(decoded_after(3), 2);
  EXPECT_EQ(decoded_after(1), 2);  // now the second group is the older one
  EXPECT_EQ(decoded_after(4), 3);
  EXPECT_EQ(decoded_after(0), 3);
  EXPECT_EQ(decoded_after(2), 4);
}

TEST_F(Parquet, several_files_are_one_list_and_only_the_wanted_columns_are_read) {
  write_rows(file("a.parquet"), 3, 2);
  write_rows(file("b.parquet"), 2, 2);
  write_rows(file("none.parquet"), 0, 2);
  const auto rows =
      open_rows({file("a.parquet"), file("none.parquet"), file("b.parquet")},
                {.columns = {{"id", ColumnKind::kText}, {"absent", ColumnKind::kTensor, false}}});
  EXPECT_EQ(rows->rows(), 5);
  EXPECT_EQ(rows->rows_of(0), 3);
  EXPECT_EQ(rows->rows_of(1), 0);
  const Row row = rows->read(3);
  EXPECT_EQ(row.size(), 1u);
  EXPECT_EQ(std::get<std::string>(row.at("id")), "clip-0");
  EXPECT_THAT(rows->place(4), HasSubstr("b.parquet, row 1"));
}

TEST_F(Parquet, without_finish_nothing_is_left) {
  {
    const auto writer = create_rows(file("a.parquet"), {});
    writer->write(row_of(1));
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder_.where()));
}

TEST_F(Parquet, a_missing_or_other_column_is_named) {
  write_rows(file("a.parquet"), 1, 1);
  const auto open_with = [this](const Column& column) {
    open_rows({file("a.parquet")}, {.columns = {column}});
  };
  EXPECT_THAT(message_of(
                  [&] {
                    open_with({"clip_feature", ColumnKind::kTensor});
                  },
                  Code::kBadDataset),
              ::testing::AllOf(HasSubstr("a.parquet"), HasSubstr("clip_feature_bytes")));
  EXPECT_THAT(message_of(
                  [&] {
                    open_with({"caption", ColumnKind::kInteger});
                  },
                  Code::kBadDataset),
              ::testing::AllOf(HasSubstr("caption"), HasSubstr("INT64"), HasSubstr("BYTE_ARRAY")));
  EXPECT_THAT(message_of(
                  [&] {
                    open_with({"vae_latent_shape", ColumnKind::kInteger});
                  },
                  Code::kBadDataset),
              HasSubstr("list"));
}

TEST_F(Parquet, a_shape_that_does_not_fit_its_bytes_is_named_with_file_row_and_column) {
  const auto writer = create_rows(file("a.parquet"), {});
  for (int64_t i = 0; i < 3; ++i) {
    Row row = row_of(i);
    if (i == 2) {
      std::get<TensorCell>(row["vae_latent"]).shape = {2, 1, 1, 4};
    }
    writer->write(row);
  }
  writer->finish();
  const auto rows = open_rows({file("a.parquet")}, all_columns());
  EXPECT_THAT(message_of([&] { rows->read(0); }, Code::kBadDataset),
              ::testing::AllOf(HasSubstr("a.parquet"), HasSubstr("row 2"), HasSubstr("vae_latent"),
                               HasSubstr("8 x 4"), HasSubstr("24")));
  for (const auto& shape : {std::vector<int64_t>{-1, 6}, std::vector<int64_t>(9, 1),
                            std::vector<int64_t>{int64_t{1} << 40, int64_t{1} << 40}}) {
    const auto odd = create_rows(file("b.parquet"), {});
    Row row = row_of(0);
    std::get<TensorCell>(row["vae_latent"]).shape = shape;
    odd->write(row);
    odd->finish();
    const auto read = open_rows({file("b.parquet")}, all_columns());
    EXPECT_THAT(message_of([&] { read->read(0); }, Code::kBadDataset), HasSubstr("shape"));
  }
}

TEST_F(Parquet, every_cut_and_every_flipped_byte_gives_our_error_or_the_right_rows) {
  write_rows(file("a.parquet"), 3, 2);
  const std::string whole = read_file(file("a.parquet"));
  int64_t refused = 0, tried = 0;
  const auto attempt = [&](const std::string& content) {
    std::ofstream(file("x.parquet"), std::ios::binary) << content;
    ++tried;
    try {
      const auto rows = open_rows({file("x.parquet")}, all_columns());
      for (int64_t i = 0; i < rows->rows(); ++i) {
        rows->read(i);
      }
    } catch (const Failure& error) {
      ++refused;
      EXPECT_THAT(error.what(), HasSubstr("x.parquet"));
    }
  };
  for (std::size_t size = 0; size < whole.size(); size += 1 + whole.size() / 100) {
    attempt(whole.substr(0, size));
  }
  EXPECT_EQ(refused, tried);
  for (std::size_t at = 0; at < whole.size(); at += 31) {
    std::string flipped = whole;
    flipped[at] = static_cast<char>(flipped[at] ^ 0x55);
    attempt(flipped);
  }
  EXPECT_GT(refused, tried / 2);
}

TEST_F(Parquet, what_is_no_file_or_was_replaced_is_said) {
  message_of([this] { open_rows({file("absent.parquet")}, all_columns()); }, Code::kNotFound);
  std::ofstream(file("text.parquet")) << "version https://git-lfs.github.com/spec/v1\n";
  EXPECT_THAT(
      message_of([this] { open_rows({file("text.parquet")}, all_columns()); }, Code::kBadDataset),
      HasSubstr("text.parquet"));
  write_rows(file("a.parquet"), 2, 1);
  const auto rows = open_rows({file("a.parquet")}, all_columns());
  write_rows(file("a.parquet"), 3, 1);
  message_of([&] { rows->read(0); }, Code::kFileChanged);
}

}  // namespace
}  // namespace fastwan::io
