// Rows that were made, one file of numbers and one sheet each, found again by their fingerprint.
//
//   <folder>/<name>.json, <sheets>/<name>.png             what was made or asked for last
//   <folder>/<name>.<start of the fingerprint>.{json,png} the same row of other weights or settings
#pragma once

#include <optional>
#include <string>

#include "base/files.h"
#include "base/json.h"
#include "io/image.h"

namespace fastwan::eval {

class KeptFiles {
 public:
  // The folders must be there.
  explicit KeptFiles(Path folder, std::optional<Path> sheets = std::nullopt)
      : folder_(std::move(folder)), sheets_(std::move(sheets)) {}

  // The numbers whose "fingerprint" that is; they and their sheet lie under `name` itself then, and
  // what lay there lies aside. InvalidInput bad_json.
  std::optional<Json> find(const std::string& name, const std::string& fingerprint) const;
  // `numbers` have their "fingerprint". Nothing of another fingerprint is lost.
  void keep(const std::string& name, const Json& numbers, const io::Image* sheet = nullptr) const;

 private:
  struct Place {
    Path numbers, sheet;
  };
  Place under(const std::string& name) const;
  void make_room(const std::string& name, const std::string& fingerprint) const;
  static void move(const Place& from, const Place& to);

  Path folder_;
  std::optional<Path> sheets_;
};

}  // namespace fastwan::eval
