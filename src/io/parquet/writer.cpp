// Rows into Parquet files, a row group at a time.
#include <utility>

#include <arrow/array.h>
#include <arrow/builder.h>
#include <arrow/io/file.h>
#include <arrow/memory_pool.h>
#include <arrow/table.h>
#include <arrow/type.h>
#include <arrow/util/io_util.h>
#include <parquet/arrow/writer.h>
#include <parquet/properties.h>

#include "base/check.h"
#include "base/text.h"
#include "io/parquet.h"

namespace fastwan::io {
namespace {

constexpr int kZstdLevel = 3;
constexpr int64_t kMaxGroupBytes = int64_t{1} << 30;  // below Arrow's 2^31 bytes of an array

void check(const arrow::Status& status, const Path& file) {
  if (status.ok()) {
    return;
  }
  if (const int error = arrow::internal::ErrnoFromStatus(status); error != 0) {
    throw_io_error(error, file, "write");  // the message alone says no more than that it failed
  }
  throw IoError(Code::kWriteFailed, str("cannot write ", escape_control(file.string()), ": ",
                                        escape_control(status.message())));
}

template <class Value>
Value value_of(arrow::Result<Value> result, const Path& file) {
  check(result.status(), file);
  return std::move(result).ValueUnsafe();
}

std::shared_ptr<arrow::Schema> arrow_schema(const std::vector<Column>& columns) {
  arrow::FieldVector fields;
  for (const Column& column : columns) {
    switch (column.kind) {
      case ColumnKind::kText:
        fields.push_back(arrow::field(column.name, arrow::utf8()));
        break;
      case ColumnKind::kInteger:
        fields.push_back(arrow::field(column.name, arrow::int64()));
        break;
      case ColumnKind::kReal:
        fields.push_back(arrow::field(column.name, arrow::float64()));
        break;
      case ColumnKind::kTensor:
        fields.push_back(arrow::field(column.name + "_bytes", arrow::binary()));
        fields.push_back(arrow::field(column.name + "_shape", arrow::list(arrow::int64())));
        fields.push_back(arrow::field(column.name + "_dtype", arrow::utf8()));
        break;
    }
  }
  return arrow::schema(std::move(fields));
}

std::shared_ptr<parquet::WriterProperties> writer_properties(const std::vector<Column>& columns) {
  parquet::WriterProperties::Builder builder;
  builder.compression(parquet::Compression::ZSTD)
      ->compression_level(kZstdLevel)
      ->disable_dictionary()
      ->enable_page_checksum()
      ->memory_pool(arrow::system_memory_pool())
      ->write_batch_size(1);  // pages are cut between batches: one tensor, one page
  for (const Column& column : columns) {
    if (column.kind == ColumnKind::kTensor) {
      // Least and greatest value of a column of 7 MB blobs would lie in the footer.
      builder.disable_statistics(column.name + "_bytes");
    }
  }
  return builder.build();
}

class ParquetRowWriter final : public RowWriter {
 public:
  ParquetRowWriter(const Path& to, const RowWriterOptions& options)
      : to_(to),
        options_(options),
        columns_(columns_of(options.schema)),
        schema_(arrow_schema(columns_)),
        file_(to),
        sink_(value_of(arrow::io::FileOutputStream::Open(file_.temp_path().string()), to)),
        writer_(
            value_of(parquet::arrow::FileWriter::Open(
                         *schema_, arrow::system_memory_pool(), sink_, writer_properties(columns_)),
                     to)) {
    invariant(options.group_rows > 0, "a row group has rows");
    begin_group();
  }

  void write(const Row& row) override {
    std::size_t field = 0;
    for (const Column& column : columns_) {
      const auto found = row.find(column.name);
      const Cell cell = found == row.end() ? Cell{} : found->second;
      if (column.kind == ColumnKind::kTensor) {
        append_tensor(std::get_if<TensorCell>(&cell), field);
        field += 3;
      } else {
        append_plain(cell, column.kind, field++);
      }
    }
    ++group_rows_;
    if (group_rows_ == options_.group_rows || group_bytes_ > kMaxGroupBytes) {
      end_group();
    }
  }

  void finish() override {
    if (group_rows_ > 0) {
      end_group();
    }
    check(writer_->Close(), to_);
    check(sink_->Close(), to_);
    file_.commit();
  }

 private:
  void begin_group() {
    builders_.clear();
    for (const auto& field : schema_->fields()) {
      builders_.push_back(
          value_of(arrow::MakeBuilder(field->type(), arrow::system_memory_pool()), to_));
    }
    group_rows_ = group_bytes_ = 0;
  }

  void end_group() {
    arrow::ArrayVector arrays;
    for (const auto& builder : builders_) {
      arrays.push_back(value_of(builder->Finish(), to_));
    }
    const auto table = arrow::Table::Make(schema_, std::move(arrays), group_rows_);
    check(writer_->WriteTable(*table, group_rows_), to_);
    begin_group();
  }

  template <class Builder>
  Builder& builder(std::size_t field) {
    return dynamic_cast<Builder&>(*builders_.at(field));
  }

  void append_tensor(const TensorCell* tensor, std::size_t field) {
    auto& bytes = builder<arrow::BinaryBuilder>(field);
    auto& shape = builder<arrow::ListBuilder>(field + 1);
    auto& dtype = builder<arrow::StringBuilder>(field + 2);
    check(bytes.Append(tensor == nullptr ? std::string() : tensor->bytes), to_);
    check(shape.Append(), to_);
    if (tensor == nullptr) {
      check(dtype.Append(""), to_);
      return;
    }
    auto& sizes = dynamic_cast<arrow::Int64Builder&>(*shape.value_builder());
    check(sizes.AppendValues(tensor->shape), to_);
    check(dtype.Append(word_of(tensor->dtype)), to_);
    group_bytes_ += static_cast<int64_t>(tensor->bytes.size());
  }

  void append_plain(const Cell& cell, ColumnKind kind, std::size_t field) {
    if (std::holds_alternative<std::monostate>(cell)) {
      check(builders_.at(field)->AppendNull(), to_);
    } else if (kind == ColumnKind::kText) {
      check(builder<arrow::StringBuilder>(field).Append(std::get<std::string>(cell)), to_);
    } else if (kind == ColumnKind::kInteger) {
      check(builder<arrow::Int64Builder>(field).Append(std::get<int64_t>(cell)), to_);
    } else {
      check(builder<arrow::DoubleBuilder>(field).Append(std::get<double>(cell)), to_);
    }
  }

  Path to_;
  RowWriterOptions options_;
  const std::vector<Column>& columns_;
  std::shared_ptr<arrow::Schema> schema_;
  AtomicFile file_;
  std::shared_ptr<arrow::io::FileOutputStream> sink_;
  std::unique_ptr<parquet::arrow::FileWriter> writer_;
  std::vector<std::unique_ptr<arrow::ArrayBuilder>> builders_;
  int64_t group_rows_ = 0;
  int64_t group_bytes_ = 0;
};

}  // namespace
}  // namespace fastwan::io

extern "C" std::unique_ptr<fastwan::io::RowWriter> fastwan_create_rows(
    const fastwan::Path& to, const fastwan::io::RowWriterOptions& options) {
  return std::make_unique<fastwan::io::ParquetRowWriter>(to, options);
}
