#include "data/loader.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <numeric>
#include <set>
#include <thread>

#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/check.h"
#include "base/text.h"
#include "data/permutation.h"
#include "support/message_of.h"

namespace fastwan::data {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::message_of;

// Row i: latents [2, 3, 1, 1] all i, text [1 + i mod 3, 4] all i.
Example example_of(int64_t i) {
  const auto value = static_cast<double>(i);
  return {.id = str("row-", i),
          .caption = str("caption ", i),
          .latents = at::full({2, 3, 1, 1}, value),
          .text = at::full({1 + i % 3, 4}, value)};
}

std::shared_ptr<const Source> source_of(int64_t rows) {
  std::vector<Example> examples;
  for (int64_t i = 0; i < rows; ++i) {
    examples.push_back(example_of(i));
  }
  return std::make_shared<MemorySource>(std::move(examples));
}

LoaderOptions options_of(int64_t global_batch) {
  return {.seed = 5, .global_batch = global_batch, .text_rows = 3};
}

std::vector<int64_t> rows_of(Loader& loader, int64_t calls) {
  std::vector<int64_t> rows;
  for (int64_t i = 0; i < calls; ++i) {
    const Batch batch = loader.next();
    rows.insert(rows.end(), batch.rows.begin(), batch.rows.end());
  }
  return rows;
}

TEST(Permutation, holds_every_row_once_and_changes_with_epoch_and_seed) {
  std::vector<int64_t> sorted(1000);
  std::iota(sorted.begin(), sorted.end(), 0);
  const auto first = epoch_permutation(7, 0, 1000);
  EXPECT_THAT(first, ::testing::UnorderedElementsAreArray(sorted));
  EXPECT_NE(first, sorted);
  EXPECT_NE(first, epoch_permutation(7, 1, 1000));
  EXPECT_NE(first, epoch_permutation(8, 0, 1000));
  EXPECT_EQ(first, epoch_permutation(7, 0, 1000));
  EXPECT_TRUE(epoch_permutation(7, 0, 0).empty());
  EXPECT_THAT(epoch_permutation(7, 0, 1), ElementsAre(0));
}

// Each of the 6 orders of 3 rows has probability 1/6: over 6000 epochs the count's standard
// deviation is sqrt(6000 * 1/6 * 5/6) = 29; 5 of them bound it.
TEST(Permutation, all_orders_of_three_rows_are_equally_likely) {
  std::map<std::vector<int64_t>, int64_t> counts;
  for (int64_t epoch = 0; epoch < 6000; ++epoch) {
    ++counts[epoch_permutation(1, epoch, 3)];
  }
  ASSERT_EQ(counts.size(), 6u);
  for (const auto& [order, count] : counts) {
    EXPECT_NEAR(static_cast<double>(count), 1000, 5 * 29);
  }
}

TEST(Loader, rows_follow_the_permutation_of_each_epoch) {
  Loader loader(source_of(10), options_of(4));
  EXPECT_EQ(loader.batches_per_epoch(), 2);
  for (int64_t epoch = 0; epoch < 3; ++epoch) {
    const auto order = epoch_permutation(5, epoch, 10);
    EXPECT_EQ(rows_of(loader, 2), std::vector<int64_t>(order.begin(), order.begin() + 8)) << epoch;
  }
}

TEST(Loader, trajectories_of_unlike_numbers_of_states_make_no_batch) {
  std::vector<Example> examples;
  for (int64_t i = 0; i < 2; ++i) {
    examples.push_back(example_of(i));
    examples.back().latents = at::Tensor();
    examples.back().trajectory = at::ones({3 + i, 2, 3, 1, 1});
    examples.back().trajectory_timesteps = at::ones({3 + i});
  }
  Loader loader(std::make_shared<MemorySource>(examples), options_of(2));
  EXPECT_THAT(message_of([&] { loader.next(); }, Code::kBadDataset),
              HasSubstr("trajectories of unlike shapes"));
}

TEST(Loader, ranks_and_micro_batches_together_read_the_order_once) {
  constexpr int64_t kGlobalBatch = 12, kBatches = 5;
  const auto source = source_of(70);
  Loader alone(source, options_of(kGlobalBatch));
  const std::vector<int64_t> expected = rows_of(alone, kBatches);
  std::vector<int64_t> by_slot(kGlobalBatch * kBatches, -1);
  for (int64_t rank = 0; rank < 3; ++rank) {
    LoaderOptions options = options_of(kGlobalBatch);
    options.rank = rank;
    options.world = 3;
    options.micro_batches = 2;
    Loader loader(source, options);
    for (int64_t call = 0; call < kBatches * 2; ++call) {
      const Batch batch = loader.next();
      EXPECT_EQ(batch.index, call / 2);
      ASSERT_EQ(batch.slots.size(), 2u);
      for (std::size_t i = 0; i < 2; ++i) {
        EXPECT_EQ(batch.slots[i], ((call % 2) * 3 + rank) * 2 + static_cast<int64_t>(i));
        int64_t& place =
            by_slot[static_cast<std::size_t>(batch.index * kGlobalBatch + batch.slots[i])];
        EXPECT_EQ(place, -1);
        place = batch.rows[i];
      }
    }
  }
  EXPECT_EQ(by_slot, expected);
}

TEST(Loader, tensors_are_those_of_the_rows_padded_and_cut) {
  LoaderOptions options = options_of(6);
  options.text_rows = 2;
  options.latent_frames = 2;
  Loader loader(source_of(6), options);
  const Batch batch = loader.next();
  EXPECT_EQ(batch.latents.sizes(), (std::vector<int64_t>{6, 2, 2, 1, 1}));
  EXPECT_EQ(batch.text.sizes(), (std::vector<int64_t>{6, 2, 4}));
  for (int64_t i = 0; i < 6; ++i) {
    const int64_t row = batch.rows[static_cast<std::size_t>(i)];
    const Example expected = example_of(row);
    EXPECT_TRUE(at::equal(batch.latents[i], expected.latents.narrow(1, 0, 2)));
    EXPECT_EQ(batch.captions[static_cast<std::size_t>(i)], expected.caption);
    const int64_t length = std::min<int64_t>(2, expected.text.size(0));
    EXPECT_TRUE(at::equal(batch.text[i].narrow(0, 0, length), expected.text.narrow(0, 0, length)));
    EXPECT_EQ(batch.text[i].narrow(0, length, 2 - length).abs().sum().item<double>(), 0.0);
  }
}

TEST(Loader, resumes_at_any_batch_in_any_epoch) {
  LoaderOptions options = options_of(4);
  options.micro_batches = 2;
  options.threads = 2;
  options.prefetch = 3;
  Loader whole(source_of(10), options);
  std::vector<std::vector<int64_t>> expected;
  for (int64_t b = 0; b < 7; ++b) {
    EXPECT_EQ(whole.position(), b);
    expected.push_back(rows_of(whole, 2));
  }
  for (int64_t from = 6; from >= 0; --from) {
    Loader resumed(source_of(10), options);
    rows_of(resumed, 3);  // in the middle of another batch
    resumed.seek(from);
    EXPECT_EQ(resumed.position(), from);
    for (int64_t b = from; b < 7; ++b) {
      EXPECT_EQ(rows_of(resumed, 2), expected[static_cast<std::size_t>(b)]) << from << " " << b;
    }
  }
}

// Counts how many rows were read and how many are alive.
class CountingSource final : public Source {
 public:
  int64_t size() const override { return 1000; }
  Example get(int64_t index) const override {
    ++reads;
    if (index == fails_at) {
      throw InvalidInput(Code::kBadDataset, "row of doom");
    }
    return example_of(index);
  }
  std::string digest() const override { return ""; }
  mutable std::atomic<int64_t> reads{0};
  int64_t fails_at = -1;
};

TEST(Loader, reads_ahead_no_more_than_asked) {
  const auto source = std::make_shared<CountingSource>();
  LoaderOptions options = options_of(2);
  options.prefetch = 3;
  options.threads = 4;
  Loader loader(source, options);
  for (int64_t call = 1; call <= 20; ++call) {
    loader.next();
    EXPECT_LE(source->reads, (call + options.prefetch) * 2);
  }
}

// Lets no row go before as many threads as are wanted stand inside.
class MeetingSource final : public Source {
 public:
  explicit MeetingSource(int64_t wanted) : wanted_(wanted) {}
  int64_t size() const override { return 1000; }
  Example get(int64_t index) const override {
    std::unique_lock lock(mutex_);
    ++inside_;
    met_ = met_ || inside_ == wanted_;
    changed_.notify_all();
    changed_.wait_for(lock, std::chrono::seconds(met_ ? 0 : 20), [this] { return met_; });
    --inside_;
    return example_of(index);
  }
  std::string digest() const override { return ""; }
  bool met() const {
    const std::lock_guard lock(mutex_);
    return met_;
  }

 private:
  const int64_t wanted_;
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  mutable int64_t inside_ = 0;
  mutable bool met_ = false;
};

// Twelve workers were two, as many as there were batches ahead.
TEST(Loader, every_thread_reads_whatever_the_batch_and_the_prefetch) {
  constexpr int64_t kThreads = 6;
  for (const int64_t batch : {1, 4, 6, 64}) {
    const auto source = std::make_shared<MeetingSource>(kThreads);
    LoaderOptions options = options_of(batch);
    options.prefetch = 1;
    options.threads = kThreads;
    Loader loader(source, options);
    for (int64_t call = 0; call < 3; ++call) {
      EXPECT_EQ(loader.next().index, call);
    }
    EXPECT_TRUE(source->met()) << batch;
  }
}

TEST(Loader, of_several_bad_rows_the_first_is_named_whichever_thread_is_faster) {
  const auto order = epoch_permutation(5, 0, 64);

  class Failing final : public Source {
   public:
    Failing(int64_t early, int64_t late) : early_(early), late_(late) {}
    int64_t size() const override { return 64; }
    Example get(int64_t index) const override {
      if (index == early_) {
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
      }
      if (index == early_ || index == late_) {
        throw InvalidInput(Code::kBadDataset, index == early_ ? "early row" : "late row");
      }
      return example_of(index);
    }
    std::string digest() const override { return ""; }

   private:
    int64_t early_, late_;
  };

  LoaderOptions options = options_of(8);
  options.threads = 4;
  Loader loader(std::make_shared<Failing>(order[2], order[3]), options);
  EXPECT_THAT(message_of<InvalidInput>([&] { loader.next(); }, Code::kBadDataset),
              HasSubstr("early"));
}

TEST(Loader, threads_change_nothing) {
  std::vector<std::vector<int64_t>> seen;
  for (const int64_t prefetch : {0, 1, 8}) {
    for (const int64_t threads : {1, 3}) {
      LoaderOptions options = options_of(3);
      options.prefetch = prefetch;
      options.threads = threads;
      Loader loader(source_of(20), options);
      seen.push_back(rows_of(loader, 30));
    }
  }
  for (const auto& rows : seen) {
    EXPECT_EQ(rows, seen[0]);
  }
}

TEST(Loader, an_error_of_the_source_comes_out_of_next_and_stays) {
  const auto source = std::make_shared<CountingSource>();
  source->fails_at = epoch_permutation(5, 0, 1000)[5];
  Loader loader(source, options_of(2));
  loader.next();
  loader.next();
  for (int64_t again = 0; again < 2; ++again) {
    EXPECT_THAT(message_of<InvalidInput>([&] { loader.next(); }, Code::kBadDataset),
                HasSubstr("doom"));
  }
  EXPECT_EQ(loader.position(), 2);
  loader.seek(10);  // past it
  EXPECT_EQ(loader.next().index, 10);
}

TEST(Loader, refuses_batches_that_cannot_be) {
  EXPECT_THAT(
      message_of<InvalidInput>([] { Loader(source_of(3), options_of(4)); }, Code::kBadDataset),
      HasSubstr("3 rows"));
  LoaderOptions options = options_of(6);
  options.world = 4;
  EXPECT_THAT(message_of<InvalidInput>([&] { Loader(source_of(9), options); }, Code::kBadConfig),
              HasSubstr("multiple of 4"));
  EXPECT_NO_THROW(Loader(source_of(4), options_of(4)));
}

TEST(Loader, refuses_rows_that_do_not_fit_together) {
  const auto loader_of = [](const Example& odd, LoaderOptions options) {
    return Loader(std::make_shared<MemorySource>(std::vector{example_of(0), odd}), options).next();
  };
  Example odd = example_of(1);
  odd.latents = at::ones({2, 3, 2, 1});
  EXPECT_THAT(message_of<InvalidInput>([&] { loader_of(odd, options_of(2)); }, Code::kBadDataset),
              HasSubstr("unlike shapes"));
  odd = example_of(1);
  odd.text = at::ones({1, 5});
  EXPECT_THAT(message_of<InvalidInput>([&] { loader_of(odd, options_of(2)); }, Code::kBadDataset),
              HasSubstr("widths"));
  LoaderOptions longer = options_of(2);
  longer.latent_frames = 4;
  EXPECT_THAT(
      message_of<InvalidInput>([&] { loader_of(example_of(1), longer); }, Code::kBadDataset),
      HasSubstr("wanted 4"));
  odd = example_of(1);
  odd.latents = at::Tensor();
  EXPECT_THAT(message_of<InvalidInput>([&] { loader_of(odd, options_of(2)); }, Code::kBadDataset),
              HasSubstr("no latents"));
}

// Two sets of one teacher have the same ids.
TEST(Loader, messages_name_the_place_of_a_row_where_it_has_one) {
  class Placed final : public Source {
   public:
    int64_t size() const override { return 2; }
    Example get(int64_t index) const override {
      Example example = example_of(index);
      example.id = "prompt-0";
      if (index == 1) {
        example.latents = at::ones({2, 1, 1, 1});
      }
      return example;
    }
    std::string place(int64_t index) const override { return str("set", index, ".parquet"); }
    std::string digest() const override { return ""; }
  };
  Loader loader(std::make_shared<Placed>(), options_of(2));
  const std::string message = message_of([&] { loader.next(); }, Code::kBadDataset);
  EXPECT_THAT(message, HasSubstr("prompt-0 (set0.parquet)"));
  EXPECT_THAT(message, HasSubstr("prompt-0 (set1.parquet)"));
}

TEST(MemorySource, digest_tells_data_sets_apart) {
  const std::string digest = source_of(3)->digest();
  EXPECT_EQ(digest, source_of(3)->digest());
  EXPECT_NE(digest, source_of(4)->digest());
  std::vector<Example> examples{example_of(0), example_of(1), example_of(2)};
  examples[1].latents = examples[1].latents + 1e-3;
  EXPECT_NE(digest, MemorySource(examples).digest());
  examples[1] = example_of(1);
  examples[1].caption += "!";
  EXPECT_NE(digest, MemorySource(examples).digest());
}

}  // namespace
}  // namespace fastwan::data
