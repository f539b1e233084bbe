#include "base/digest.h"

#include <gtest/gtest.h>

#include "base/check.h"

namespace fastwan {
namespace {

// FIPS 180-4's examples.
TEST(Sha256, MatchesThePublishedExamples) {
  EXPECT_EQ(sha256_hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256_hex(std::string(1'000'000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256, PiecesGiveTheDigestOfTheWhole) {
  Sha256 digest;
  digest.update("a");
  digest.update("");
  digest.update("bc");
  EXPECT_EQ(digest.hex(), sha256_hex("abc"));
}

TEST(Sha256, OfAFileIsThatOfItsBytes) {
  TempFolder folder;
  const std::string content(3'000'001, 'x');  // more than one buffer
  write_durably(folder.where() / "f", content);
  EXPECT_EQ(sha256_file(folder.where() / "f"), sha256_hex(content));
  try {
    sha256_file(folder.where() / "none");
    FAIL();
  } catch (const IoError& error) {
    EXPECT_EQ(error.code(), Code::kNotFound);
  }
}

// The law in plain words, on a file of two chunks and a byte.
TEST(Sha256Tree, IsTheDigestOfTheDigestsOfItsChunks) {
  TempFolder folder;
  std::string content(static_cast<std::size_t>(2 * kDigestChunkBytes + 1), 'x');
  content[20'000'000] = 'y';
  write_durably(folder.where() / "f", content);
  Sha256 tree;
  for (std::size_t first = 0; first < content.size(); first += kDigestChunkBytes) {
    Sha256 chunk;
    chunk.update(std::string_view(content).substr(first, kDigestChunkBytes));
    tree.update(chunk.bytes());
  }
  EXPECT_EQ(sha256_tree(folder.where() / "f"), tree.hex());
  write_durably(folder.where() / "empty", "");
  EXPECT_EQ(sha256_tree(folder.where() / "empty"), sha256_hex(""));
}

TEST(Digest, of_the_files_of_a_part_covers_bytes_and_relative_names_of_the_wanted_kinds) {
  const TempFolder folder;
  const auto write = [&](const char* name, const char* text) {
    std::filesystem::create_directories((folder.where() / name).parent_path());
    write_durably(folder.where() / name, text);
  };
  const auto digest = [&] { return sha256_files(folder.where(), {".json", ".model"}); };
  write("a.json", "1");
  write("b/c.model", "2");
  const std::string before = digest();
  write("other.txt", "3");
  EXPECT_EQ(digest(), before);
  write("b/c.model", "4");
  EXPECT_NE(digest(), before);
  write("b/c.model", "2");
  EXPECT_EQ(digest(), before);
  std::filesystem::rename(folder.where() / "a.json", folder.where() / "d.json");
  EXPECT_NE(digest(), before);
  const std::string one = sha256_files(folder.where() / "other.txt", {});
  write("other.txt", "5");
  EXPECT_NE(sha256_files(folder.where() / "other.txt", {}), one);
}

}  // namespace
}  // namespace fastwan
