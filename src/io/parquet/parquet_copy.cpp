// For tests: parquet_copy SCHEMA FROM TO GROUP_ROWS CACHE_BYTES reads every row, last first and
// then in order, and writes it anew.
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <span>
#include <string>

#include "base/check.h"
#include "base/text.h"
#include "io/parquet.h"

namespace fastwan::io {
namespace {

RowSchema schema_of(const std::string& name) {
  for (const auto schema : {RowSchema::kT2v, RowSchema::kI2v, RowSchema::kTextOnly,
                            RowSchema::kOdeTrajectoryTextOnly}) {
    if (name == name_of(schema)) {
      return schema;
    }
  }
  throw InvalidInput(Code::kBadValue, "no such schema: " + name);
}

void copy(std::span<char*> words) {
  const RowSchema schema = schema_of(words[1]);
  const auto rows = open_rows(
      {words[2]}, {.columns = columns_of(schema), .cache_bytes = parse_int(words[5]).value()});
  for (int64_t i = rows->rows() - 1; i >= 0; --i) {
    rows->read(i);
  }
  const auto writer =
      create_rows(words[3], {.schema = schema, .group_rows = parse_int(words[4]).value()});
  for (int64_t i = 0; i < rows->rows(); ++i) {
    writer->write(rows->read(i));
  }
  writer->finish();
}

}  // namespace
}  // namespace fastwan::io

int main(int argc, char** argv) {
  try {
    fastwan::io::copy({argv, static_cast<std::size_t>(argc)});
    return 0;
  } catch (const std::exception& error) {
    std::fputs((std::string(error.what()) + "\n").c_str(), stderr);
    return 3;
  }
}
