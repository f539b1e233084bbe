// Batches of a source in a known order: shuffled per epoch, split by rank, made ahead by threads.
//
//   rows      global batch b, slot j  ->  row perm[(b mod B) G + j] of epoch b / B, with G the
//             global batch, N the rows, B = floor(N / G); the N - B G rows at the end of an epoch's
//             order wait for the next
//   slots     j = (micro * world + rank) * b + i for sample i of a micro-batch of b = G / (world *
//             micro_batches): what random numbers are keyed by, whatever the number of ranks
//   resume    seek(n): nothing but the seed and the number of consumed global batches is needed
//   threads   share the rows of a micro-batch; the one that brings its last row puts it together
//   memory    max(prefetch, 1 + ceil(threads / b)) micro-batches, whatever the size of the set, and
//             each twice while it is put together
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "data/source.h"

namespace fastwan::data {

struct Batch {
  at::Tensor latents;  // [b, C, T, H, W] fp32, not normalised; undefined: rows of text alone
  // Of rows with a trajectory, as in Example.
  at::Tensor trajectory;              // [b, K + 1, C, T, H, W] fp32, normalised
  at::Tensor trajectory_timesteps;    // [b, K + 1] fp32
  at::Tensor text;                    // [b, text_rows, D] fp32, zero rows behind each prompt's end
  std::vector<int64_t> slots;         // [b] places in the global batch
  std::vector<int64_t> rows;          // [b] indices in the source
  std::vector<std::string> captions;  // [b]
  int64_t index = 0;                  // of the global batch, from 0
};

struct LoaderOptions {
  uint64_t seed = 1000;
  int64_t global_batch = 1;  // samples of one optimizer step: all ranks, all micro-batches
  int64_t rank = 0;
  int64_t world = 1;
  int64_t micro_batches = 1;  // calls of next() that make up this rank's share of a global batch
  int64_t text_rows = 512;    // longer texts are cut, shorter ones padded
  int64_t latent_frames = 0;  // the first so many of each row; 0: all
  // Micro-batches made ahead, and more of them where threads would find no row to read; 0: made
  // inside next(), without a thread.
  int64_t prefetch = 2;
  int64_t threads = 1;  // that make them
};

// InvalidInput bad_config when the ranks and micro-batches do not divide the global batch;
// bad_dataset when there are fewer rows than one global batch takes.
void check_loader(const LoaderOptions& options, int64_t rows);

class Loader {
 public:
  // Throws as check_loader().
  Loader(std::shared_ptr<const Source> source, const LoaderOptions& options);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  // The next micro-batch of this rank. InvalidInput bad_dataset, naming rows: latents or
  // trajectories of unlike shapes in a batch, fewer frames than latent_frames. An error stays: each
  // further call throws it again.
  Batch next();

  // Global batches that are fully consumed.
  int64_t position() const;
  // Goes on at the first micro-batch of global batch `batches_consumed`.
  void seek(int64_t batches_consumed);

  int64_t batches_per_epoch() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fastwan::data
