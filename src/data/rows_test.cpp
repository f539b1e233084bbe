// Rows, sources, lists and shards, on files.
#include "data/rows.h"

#include <cmath>
#include <fstream>
#include <limits>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/check.h"
#include "base/files.h"
#include "base/json.h"
#include "base/text.h"
#include "data/clip_list.h"
#include "data/latents.h"
#include "data/loader.h"
#include "data/row_shard.h"
#include "data/row_source.h"
#include "support/message_of.h"

namespace fastwan::data {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::message_of;

Example example(int64_t i) {
  const auto generator = at::detail::createCPUGenerator(static_cast<uint64_t>(i));
  return {.id = str("row-", i),
          .caption = str("caption ", i),
          .latents = at::randn({4, 2, 3, 5}, generator),
          .text = at::randn({1 + i % 3, 8}, generator)};
}

io::Row row_of(const Example& example) {
  io::Row row;
  row["id"] = example.id;
  row["caption"] = example.caption;
  row["vae_latent"] = to_cell(example.latents);
  row["text_embedding"] = to_cell(example.text);
  return row;
}

class Rows : public ::testing::Test {
 protected:
  Path at(const std::string& name) const { return folder_.where() / name; }

  void write_file(const std::string& name, int64_t first, int64_t count) const {
    std::filesystem::create_directories(at(name).parent_path());
    const auto writer = io::create_rows(at(name), {.group_rows = 2});
    for (int64_t i = first; i < first + count; ++i) {
      writer->write(row_of(example(i)));
    }
    writer->finish();
  }

  TempFolder folder_;
};

TEST_F(Rows, stored_types_become_float32_exactly) {
  for (const at::ScalarType type : {at::kFloat, at::kHalf, at::kBFloat16}) {
    const Example wanted = example(3);
    io::Row row = row_of(wanted);
    row["vae_latent"] = to_cell(wanted.latents.to(type));
    const Example got = example_of(row, "here");
    EXPECT_EQ(got.latents.scalar_type(), at::kFloat);
    EXPECT_TRUE(at::equal(got.latents, wanted.latents.to(type).to(at::kFloat)));
    EXPECT_EQ(got.id, wanted.id);
    EXPECT_EQ(got.caption, wanted.caption);
    EXPECT_TRUE(at::equal(got.text, wanted.text));
  }
}

TEST_F(Rows, what_cannot_be_trained_on_is_refused_by_place_and_column) {
  const auto refused = [](const std::function<void(io::Row&)>& spoil) {
    io::Row row = row_of(example(1));
    spoil(row);
    return message_of([&] { example_of(row, "file x, row 7"); }, Code::kBadDataset);
  };
  EXPECT_THAT(
      refused([](io::Row& row) {
        row["vae_latent"] = to_cell(at::ones({4, 2, 3}));
      }),
      ::testing::AllOf(HasSubstr("row 7"), HasSubstr("vae_latent"), HasSubstr("[4, 2, 3]")));
  EXPECT_THAT(refused([](io::Row& row) { row.erase("text_embedding"); }), HasSubstr("text"));
  EXPECT_THAT(refused([](io::Row& row) {
                at::Tensor bad = at::ones({4, 2, 3, 5});
                bad[0][0][0][0] = std::numeric_limits<float>::infinity();
                row["vae_latent"] = to_cell(bad);
              }),
              HasSubstr("infinity"));
  EXPECT_THAT(refused([](io::Row& row) {
                row["text_embedding"] = to_cell(at::ones({2, 8}, at::kByte));
              }),
              HasSubstr("uint8"));
  io::Row no_latents = row_of(example(1));
  no_latents.erase("vae_latent");
  EXPECT_FALSE(example_of(no_latents, "").latents.defined());
}

// Rows of schema ode_trajectory_text_only: two states and the end.
io::Row trajectory_row(int64_t i) {
  const Example from = example(i);
  io::Row row = row_of(from);
  row.erase("vae_latent");
  row["trajectory_latents"] = to_cell(
      at::randn({3, 4, 2, 3, 5}, at::detail::createCPUGenerator(static_cast<uint64_t>(i + 100))));
  row["trajectory_timesteps"] = to_cell(at::tensor({999.5, 500.0, 0.0}, at::kFloat));
  return row;
}

TEST_F(Rows, trajectories_come_back_from_files_and_make_batches_that_resume) {
  std::filesystem::create_directories(at("t"));
  const auto writer =
      io::create_rows(at("t/0.parquet"), {.schema = io::RowSchema::kOdeTrajectoryTextOnly});
  for (int64_t i = 0; i < 5; ++i) {
    writer->write(trajectory_row(i));
  }
  writer->finish();
  const std::shared_ptr<const Source> source = open_row_source(at("t").string());
  const Example wanted = example_of(trajectory_row(3), ""), got = source->get(3);
  EXPECT_FALSE(got.latents.defined());
  EXPECT_EQ(got.trajectory.sizes(), (at::IntArrayRef{3, 4, 2, 3, 5}));
  EXPECT_TRUE(at::equal(got.trajectory, wanted.trajectory));
  EXPECT_TRUE(at::equal(got.trajectory_timesteps, wanted.trajectory_timesteps));

  const LoaderOptions options{.seed = 5, .global_batch = 2, .text_rows = 3};
  Loader loader(source, options), resumed(source, options);
  std::vector<Batch> batches;
  for (int64_t i = 0; i < 4; ++i) {  // into the second epoch
    batches.push_back(loader.next());
    const Batch& batch = batches.back();
    EXPECT_FALSE(batch.latents.defined());
    ASSERT_EQ(batch.trajectory.sizes(), (at::IntArrayRef{2, 3, 4, 2, 3, 5}));
    ASSERT_EQ(batch.trajectory_timesteps.sizes(), (at::IntArrayRef{2, 3}));
    for (int64_t b = 0; b < 2; ++b) {
      const Example row = source->get(batch.rows[static_cast<std::size_t>(b)]);
      EXPECT_TRUE(at::equal(batch.trajectory[b], row.trajectory));
    }
  }
  resumed.seek(3);
  EXPECT_TRUE(at::equal(resumed.next().trajectory, batches[3].trajectory));
}

TEST_F(Rows, what_is_no_trajectory_is_refused_by_place) {
  const auto refused = [](const std::function<void(io::Row&)>& spoil) {
    io::Row row = trajectory_row(1);
    spoil(row);
    return message_of([&] { example_of(row, "file x, row 7"); }, Code::kBadDataset);
  };
  const auto with_timesteps = [&](const std::vector<double>& timesteps) {
    return refused([&timesteps](io::Row& row) {
      row["trajectory_timesteps"] = to_cell(at::tensor(timesteps, at::kFloat));
    });
  };
  EXPECT_THAT(refused([](io::Row& row) { row.erase("trajectory_timesteps"); }),
              ::testing::AllOf(HasSubstr("row 7"), HasSubstr("without trajectory_timesteps")));
  EXPECT_THAT(refused([](io::Row& row) { row.erase("trajectory_latents"); }),
              HasSubstr("without trajectory_latents"));
  EXPECT_THAT(refused([](io::Row& row) {
                row["trajectory_latents"] = to_cell(at::ones({4, 2, 3, 5}));
              }),
              HasSubstr("5 dimensions"));
  EXPECT_THAT(refused([](io::Row& row) {
                row["trajectory_latents"] = to_cell(at::ones({1, 4, 2, 3, 5}));
                row["trajectory_timesteps"] = to_cell(at::zeros({1}));
              }),
              HasSubstr("at least one state"));
  EXPECT_THAT(with_timesteps({1000, 0}), HasSubstr("3 latents and 2 timesteps"));
  EXPECT_THAT(with_timesteps({1000, 500, 1}), HasSubstr("fall from at most 1000 to 0"));
  EXPECT_THAT(with_timesteps({1001, 500, 0}), HasSubstr("got 1001"));
  EXPECT_THAT(with_timesteps({500, 500, 0}), HasSubstr("must fall"));
}

TEST_F(Rows, a_source_joins_folders_and_repeats_them) {
  write_file("a/x/1.parquet", 0, 3);
  write_file("a/0.parquet", 3, 2);
  write_file("b/1.parquet", 5, 4);
  write_file("b/.2.parquet", 90, 4);  // something unfinished
  const auto source = open_row_source(str(at("a").string(), ":2,", at("b").string()));
  ASSERT_EQ(source->size(), 14);
  const std::vector<int64_t> expected = {3, 4, 0, 1, 2, 3, 4, 0, 1, 2, 5, 6, 7, 8};
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const Example got = source->get(static_cast<int64_t>(i));
    const Example wanted = example(expected[i]);
    EXPECT_EQ(got.id, wanted.id);
    EXPECT_TRUE(at::equal(got.latents, wanted.latents));
    EXPECT_TRUE(at::equal(got.text, wanted.text));
  }
}

TEST_F(Rows, the_digest_changes_with_names_rows_bytes_and_repeats_not_with_the_place) {
  write_file("a/1.parquet", 0, 3);
  const std::string digest = open_row_source(at("a").string())->digest();
  std::filesystem::rename(at("a"), at("moved"));
  EXPECT_EQ(open_row_source(at("moved").string())->digest(), digest);
  EXPECT_NE(open_row_source(at("moved").string() + ":2")->digest(), digest);
  write_file("moved/1.parquet", 0, 2);
  EXPECT_NE(open_row_source(at("moved").string())->digest(), digest);
  write_file("moved/1.parquet", 1, 3);
  EXPECT_NE(open_row_source(at("moved").string())->digest(), digest) << "other rows, as many";
  write_file("moved/1.parquet", 0, 3);
  EXPECT_EQ(open_row_source(at("moved").string())->digest(), digest);
  std::filesystem::rename(at("moved/1.parquet"), at("moved/2.parquet"));
  EXPECT_NE(open_row_source(at("moved").string())->digest(), digest);
}

TEST_F(Rows, a_loader_gives_the_same_batches_from_files_as_from_memory) {
  write_file("a/1.parquet", 0, 7);
  write_file("a/2.parquet", 7, 6);
  std::vector<Example> examples;
  for (int64_t i = 0; i < 13; ++i) {
    examples.push_back(example(i));
  }
  const LoaderOptions options{.seed = 3, .global_batch = 4, .text_rows = 3, .threads = 2};
  Loader memory(std::make_shared<MemorySource>(examples), options);
  Loader files(open_row_source(at("a").string(), {.cache_bytes = 3000}), options);
  for (int64_t b = 0; b < 9; ++b) {
    const Batch wanted = memory.next(), got = files.next();
    EXPECT_EQ(got.rows, wanted.rows);
    EXPECT_EQ(got.captions, wanted.captions);
    EXPECT_TRUE(at::equal(got.latents, wanted.latents));
    EXPECT_TRUE(at::equal(got.text, wanted.text));
  }
}

TEST_F(Rows, data_paths_and_empty_folders_are_checked) {
  const auto folders = parse_data_path(" a:3 ,b/c,d:1");
  ASSERT_EQ(folders.size(), 3u);
  EXPECT_EQ(folders[0].folder, "a");
  EXPECT_EQ(folders[0].repeats, 3);
  EXPECT_EQ(folders[1].folder, "b/c");
  EXPECT_EQ(folders[1].repeats, 1);
  for (const char* bad : {"", "a,", "a:0", "a:-1", "a:x", ":2"}) {
    message_of([&] { parse_data_path(bad); }, Code::kBadValue);
  }
  message_of([&] { open_row_source(at("absent").string()); }, Code::kNotFound);
  std::filesystem::create_directory(at("empty"));
  message_of([&] { open_row_source(at("empty").string()); }, Code::kBadDataset);
}

// There and back: the stored number is rounded once, which moves x by at most ulp(stored) / 2 /
// std; then x itself is rounded.
TEST(Latents, normalise_undoes_denormalise_to_the_last_place) {
  const layout::WanVaeConfig vae{
      .z_dim = 4, .latents_mean = {-0.75, 0.0, 2.3, 0.01}, .latents_std = {2.8, 1.0, 0.4, 1.7}};
  const auto generator = at::detail::createCPUGenerator(5);
  const at::Tensor x = at::randn({2, 4, 3, 8, 9}, generator);
  const at::Tensor stored = denormalise(x, vae);
  const at::Tensor back = normalise(stored, vae);
  constexpr double kHalfUlp = 0x1p-24;
  for (int64_t c = 0; c < 4; ++c) {
    const auto at_channel = static_cast<std::size_t>(c);
    const at::Tensor error = (back.select(1, c).to(at::kDouble) - x.select(1, c)).abs();
    const at::Tensor bound =
        stored.select(1, c).abs().to(at::kDouble) * 2 * kHalfUlp / vae.latents_std[at_channel] +
        x.select(1, c).abs().to(at::kDouble) * 2 * kHalfUlp;
    EXPECT_TRUE((error <= bound).all().item<bool>()) << c;
    const at::Tensor expected =
        x.select(1, c).to(at::kDouble) * vae.latents_std[at_channel] + vae.latents_mean[at_channel];
    EXPECT_TRUE(at::equal(stored.select(1, c), expected.to(at::kFloat)));
  }
  message_of([&] { normalise(at::ones({3, 1, 1, 1}), vae); }, Code::kBadDataset);
}

TEST_F(Rows, lists_of_clips_are_read_in_each_form) {
  std::filesystem::create_directories(at("m"));
  std::ofstream(at("m/videos2caption.json"))
      << R"([{"path":"a.mp4","cap":["first","second"],"fps":24.0,"resolution":{"width":3}},
            {"path":"sub/b.mp4","cap":"one"}, {"path":"c.mp4","cap":[]}])";
  const auto merged = read_merged(at("m"));
  ASSERT_EQ(merged.size(), 3u);
  EXPECT_EQ(merged[0].video, at("m/videos/a.mp4"));
  EXPECT_EQ(merged[0].caption, "first");
  EXPECT_EQ(merged[0].fps, 24.0);
  EXPECT_EQ(merged[1].id, "sub/b");
  EXPECT_EQ(merged[1].caption, "one");
  EXPECT_EQ(merged[2].caption, "");
  std::ofstream(at("l.jsonl")) << "{\"video\":\"v/a.mp4\",\"caption\":\"x\"}\r\n\n"
                                  "{\"path\":\"/abs/b.webm\",\"cap\":[\"y\"]}";
  const auto lines = read_jsonl(at("l.jsonl"));
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0].video, at("v/a.mp4"));
  EXPECT_EQ(lines[1].video, "/abs/b.webm");
  std::ofstream(at("any.json")) << R"([{"path":"a.mp4","cap":"x"},{"path":"b.mp4","cap":"y"}])";
  std::filesystem::create_directories(at("videos"));
  std::ofstream(at("videos/b.mp4")) << "there";
  const auto array = read_json(at("any.json"));
  ASSERT_EQ(array.size(), 2u);
  EXPECT_EQ(array[0].video, at("a.mp4"));
  EXPECT_EQ(array[1].video, at("videos/b.mp4"));
  EXPECT_EQ(array[1].id, "b");
  std::ofstream(at("p.txt")) << "a cat\n\n  a dog \n";
  const auto prompts = read_prompts(at("p.txt"));
  ASSERT_EQ(prompts.size(), 2u);
  EXPECT_EQ(prompts[1].caption, "a dog");
  EXPECT_EQ(prompts[1].id, "prompt-1");
}

TEST_F(Rows, clips_of_one_stem_have_their_whole_names_as_ids_and_others_their_stems) {
  std::ofstream list(at("l.jsonl"));
  for (const char* name :
       {"a.mp4", "b.mp4", "a.webm", "sub/a.mp4", "c.mp4", "c.mp4.mov", "c.webm"}) {
    list << R"({"cap":"x","video":")" << name << "\"}\n";
  }
  list.close();
  std::vector<std::string> ids;
  for (const ClipInput& clip : read_jsonl(at("l.jsonl"))) {
    ids.push_back(clip.id);
    EXPECT_EQ(clip.repeats, "");
  }
  EXPECT_THAT(ids, ElementsAre("a.mp4", "b", "a.webm", "sub/a", "c.mp4", "c.mp4.mov", "c.webm"));
}

TEST_F(Rows, the_same_video_again_is_marked_and_named_and_changes_no_id) {
  std::ofstream(at("l.jsonl")) << R"({"cap":"x","video":"a.mp4"}
{"cap":"y","video":"b.mp4"}

{"cap":"z","video":"./a.mp4"})";
  const auto clips = read_jsonl(at("l.jsonl"));
  ASSERT_EQ(clips.size(), 3u);
  EXPECT_EQ(clips[0].id, "a");
  EXPECT_EQ(clips[0].repeats, "");
  EXPECT_THAT(clips[2].repeats, HasSubstr("l.jsonl:4: ./a.mp4 comes twice, first in "));
  EXPECT_THAT(clips[2].repeats, HasSubstr("l.jsonl:1"));
}

TEST_F(Rows, a_wrong_list_is_refused_by_entry) {
  const auto refused = [this](const std::string& lines, Code code = Code::kBadDataset) {
    std::ofstream(at("l.jsonl")) << lines;
    return message_of([this] { read_jsonl(at("l.jsonl")); }, code);
  };
  EXPECT_THAT(refused("{\"video\":\"a.mp4\",\"cap\":\"x\"}\n{\"cap\":\"y\"}"),
              HasSubstr("l.jsonl:2"));
  EXPECT_THAT(refused("{\"video\":\"a.mp4\",\"cap\":3}"), HasSubstr("caption"));
  EXPECT_THAT(refused("{\"video\":\"a.mp4\",\"cap\":\"x\",\"fps\":0}"), HasSubstr("fps"));
  refused("", Code::kBadDataset);
  refused("{", Code::kBadJson);
  message_of([this] { read_merged(at("absent")); }, Code::kNotFound);
}

TEST(Share, shards_are_contiguous_and_cover_all) {
  for (const int64_t total : {0, 1, 7, 12}) {
    for (const int64_t shards : {1, 3, 5}) {
      int64_t next = 0;
      for (int64_t shard = 0; shard < shards; ++shard) {
        const auto [first, last] = share_of(total, shard, shards);
        EXPECT_EQ(first, next);
        EXPECT_GE(last, first);
        EXPECT_LE(last - first, total / shards + 1);
        next = last;
      }
      EXPECT_EQ(next, total);
    }
  }
}

class Shard : public Rows {
 protected:
  RowShardOptions options(int64_t inputs) const {
    return {.last_input = inputs,
            .rows_per_file = 3,
            .group_rows = 2,
            .depends_on = {{"list", "f"}, {"--seed", "1"}}};
  }

  // Inputs 2 and 5 give no row. Stops before input `stop`.
  void run(int64_t inputs, int64_t stop) const {
    RowShard shard(at("s"), options(inputs));
    while (shard.next_input() < std::min(stop, inputs)) {
      const int64_t i = shard.next_input();
      i == 2 || i == 5 ? shard.leave_out("odd") : shard.add(row_of(example(i)));
    }
    if (stop >= inputs) {
      shard.finish();
    }
  }

  std::vector<std::string> ids() const {
    std::vector<std::string> found;
    const auto rows = io::open_rows(io::parquet_files(at("s")), {.columns = training_columns()});
    for (int64_t i = 0; i < rows->rows(); ++i) {
      found.push_back(std::get<std::string>(rows->read(i).at("id")));
    }
    return found;
  }
};

TEST_F(Shard, every_point_of_interruption_leads_to_the_same_rows_once) {
  for (int64_t stop = 0; stop <= 10; ++stop) {
    std::filesystem::remove_all(at("s"));
    run(10, stop);
    run(10, 100);
    EXPECT_THAT(ids(),
                ElementsAre("row-0", "row-1", "row-3", "row-4", "row-6", "row-7", "row-8", "row-9"))
        << stop;
    RowShard again(at("s"), options(10));
    EXPECT_EQ(again.next_input(), 10);
    EXPECT_EQ(again.rows(), 8);
    EXPECT_EQ(again.left_out().at("odd"), 2);
  }
}

TEST_F(Shard, a_damaged_file_and_what_follows_is_made_again_and_strays_go) {
  run(10, 100);
  std::ofstream(at("s/data_chunk_00001.parquet"), std::ios::app) << "x";
  std::ofstream(at("s/.data_chunk_00007.12.part.parquet")) << "of a killed run";
  std::ofstream(at("s/data_chunk_00009.parquet")) << "placed and never listed";
  {
    RowShard shard(at("s"), options(10));
    EXPECT_EQ(shard.rows(), 3);
    EXPECT_EQ(shard.next_input(), 4);
    EXPECT_EQ(shard.left_out().at("odd"), 1);
  }
  run(10, 100);
  EXPECT_EQ(ids().size(), 8u);
}

TEST_F(Shard, one_process_at_a_time_and_one_set_of_settings) {
  run(10, 4);
  const RowShard shard(at("s"), options(10));
  EXPECT_THAT(message_of([this] { RowShard(at("s"), options(10)); }, Code::kExists),
              HasSubstr("another process"));
  std::filesystem::copy(at("s"), at("t"));
  RowShardOptions other = options(10);
  const auto refusal = [&] { return message_of([&] { RowShard(at("t"), other); }, Code::kExists); };
  other.depends_on = {{"list", "g"}, {"--seed", "1"}};
  EXPECT_THAT(refusal(), HasSubstr("begun with another list. Choose"));
  other.depends_on = {{"list", "g"}, {"tokenizer", "t"}};
  EXPECT_THAT(refusal(), HasSubstr("begun with another --seed, list, tokenizer. Choose"));
  Json manifest = read_json_file(at("t/manifest.json").string());
  manifest.erase("depends_on");
  write_durably(at("t/manifest.json"), dump_json(manifest));
  EXPECT_THAT(refusal(), HasSubstr("an earlier version"));
}

TEST_F(Shard, shards_beside_each_other_are_of_one_set) {
  const auto begin = [this](int64_t shard, const std::string& of, const std::string& seed) {
    RowShardOptions wanted = options(3);
    wanted.depends_on = {{"--seed", seed}, {kShardName, of}};
    return std::make_unique<RowShard>(at("d") / str("worker_", shard), wanted);
  };
  const auto refusal = [&](int64_t shard, const std::string& of, const std::string& seed) {
    return message_of([&] { begin(shard, of, seed); }, Code::kExists);
  };
  auto first = begin(0, "0/2", "1");
  // At work, though no file is written yet.
  EXPECT_THAT(refusal(1, "1/2", "2"), HasSubstr("begun with another --seed"));
  EXPECT_THAT(refusal(2, "2/3", "1"),
              HasSubstr("(--shard 2/3) is 0/2, begun with another --shard"));
  EXPECT_FALSE(std::filesystem::exists(at("d/worker_2")));
  first.reset();
  // Ended before its first file: it binds neither another nor itself.
  begin(1, "1/2", "2");
  first = begin(0, "0/3", "2");
  for (int64_t i = 0; i < 3; ++i) {
    first->add(row_of(example(i)));
  }
  first->finish();
  first.reset();
  EXPECT_THAT(refusal(1, "1/2", "2"), HasSubstr("another --shard"));
  begin(1, "1/3", "2");
}

TEST_F(Shard, a_folder_that_cannot_be_made_is_named) {
  std::ofstream(at("file")) << "x";
  EXPECT_THAT(
      message_of([this] { RowShard(at("file") / "worker_0", options(3)); }, Code::kNotFound),
      HasSubstr("worker_0"));
}

}  // namespace
}  // namespace fastwan::data
