#include "data/loader.h"

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <map>
#include <mutex>
#include <thread>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <omp.h>

#include "base/check.h"
#include "base/shape.h"
#include "base/text.h"
#include "data/permutation.h"

namespace fastwan::data {
namespace {

std::string shape_text(const at::Tensor& tensor) {
  return format_shape({tensor.sizes().data(), tensor.sizes().size()});
}

// The examples of a micro-batch, and what messages call them: ids repeat between data sets.
struct Read {
  const std::vector<Example>& examples;
  const std::vector<int64_t>& rows;  // their indices in the source
  const Source& source;

  std::string name(std::size_t i) const {
    const std::string place = source.place(rows[i]);
    return str(escape_control(examples[i].id), place.empty() ? "" : str(" (", place, ")"));
  }
};

// A tensor of an example, and what messages call it.
struct Part {
  at::Tensor Example::*tensor;
  const char* name;
};

at::Tensor first_frames(const Read& read, std::size_t i, int64_t frames) {  // [C, T, H, W]
  const at::Tensor& latents = read.examples[i].latents;
  if (latents.size(1) < frames) {
    throw InvalidInput(Code::kBadDataset, str("row ", read.name(i), " has ", latents.size(1),
                                              " latent frames, wanted ", frames));
  }
  return latents.narrow(1, 0, frames);
}

// Undefined where no example has the part.
at::Tensor join(const Read& read, const Part& part, int64_t frames = 0) {
  if (std::none_of(read.examples.begin(), read.examples.end(),
                   [&part](const Example& e) { return (e.*part.tensor).defined(); })) {
    return {};
  }
  std::vector<at::Tensor> parts;  // b of [C, T, H, W] or [K + 1, C, T, H, W]
  for (std::size_t i = 0; i < read.examples.size(); ++i) {
    const at::Tensor& tensor = read.examples[i].*part.tensor;
    if (!tensor.defined()) {
      throw InvalidInput(Code::kBadDataset, str("row ", read.name(i), " has no ", part.name,
                                                ", others of its batch have"));
    }
    parts.push_back(frames > 0 ? first_frames(read, i, frames) : tensor);
    if (parts.back().sizes() != parts[0].sizes()) {
      throw InvalidInput(Code::kBadDataset,
                         str("rows ", read.name(0), " and ", read.name(i), " have ", part.name,
                             " of unlike shapes: ", shape_text(parts[0]), " and ",
                             shape_text(parts.back()), ". One data set holds one size"));
    }
  }
  return at::stack(parts);
}

at::Tensor join_texts(const Read& read, int64_t text_rows) {
  const at::Tensor& first = read.examples[0].text;  // [L, D]
  const int64_t width = first.size(1);
  at::Tensor joined = at::zeros({static_cast<int64_t>(read.examples.size()), text_rows, width},
                                first.options());  // [b, text_rows, D]
  for (std::size_t i = 0; i < read.examples.size(); ++i) {
    const at::Tensor& text = read.examples[i].text;  // [L, D]
    if (text.size(1) != width) {
      throw InvalidInput(Code::kBadDataset,
                         str("rows ", read.name(0), " and ", read.name(i),
                             " have text embeddings of widths ", width, " and ", text.size(1)));
    }
    const int64_t length = std::min(text.size(0), text_rows);
    joined[static_cast<int64_t>(i)].narrow(0, 0, length).copy_(text.narrow(0, 0, length));
  }
  return joined;
}

}  // namespace

void check_loader(const LoaderOptions& options, int64_t rows) {
  const auto positive = [](int64_t value, const char* name) {
    if (value < 1) {
      throw InvalidInput(Code::kBadConfig, str(name, " must be at least 1, got ", value));
    }
  };
  positive(options.global_batch, "the global batch");
  positive(options.world, "the number of ranks");
  positive(options.micro_batches, "the number of micro-batches");
  positive(options.text_rows, "the number of text rows");
  invariant(options.rank >= 0 && options.rank < options.world, "a rank is below their number");
  if (options.global_batch % (options.world * options.micro_batches) != 0) {
    throw InvalidInput(
        Code::kBadConfig,
        str("a global batch of ", options.global_batch, " cannot be split into ", options.world,
            " ranks x ", options.micro_batches, " micro-batches. Choose a multiple of ",
            options.world * options.micro_batches));
  }
  if (rows < options.global_batch) {
    throw InvalidInput(Code::kBadDataset,
                       str("the data set has ", rows, " rows, a global batch needs ",
                           options.global_batch, ". Add rows or choose a smaller batch"));
  }
}

// Micro-batch k of this rank is micro-batch k mod M of global batch k / M.
struct Loader::Impl {
  Impl(std::shared_ptr<const Source> from, const LoaderOptions& with)
      : source(std::move(from)), options(with), rows(source->size()) {
    check_loader(options, rows);
    micro_batch = options.global_batch / (options.world * options.micro_batches);
    // One that is ready, and rows for every thread in those that follow.
    ahead = std::max(options.prefetch, 1 + (options.threads + micro_batch - 1) / micro_batch);
  }

  // A micro-batch whose rows are being read: each by one thread, into its own place.
  struct Making {
    int64_t index = 0;
    std::vector<int64_t> rows;
    std::vector<Example> examples;
    std::vector<std::exception_ptr> errors;
    std::size_t num_begun = 0, num_read = 0;  // guarded by the loader's mutex
  };
  struct Made {
    Batch batch;
    std::exception_ptr error;
  };

  using Order = std::shared_ptr<const std::vector<int64_t>>;
  Order order_of(int64_t epoch);
  int64_t slot_of(int64_t micro_index, int64_t i) const;
  std::vector<int64_t> rows_of(int64_t micro_index);
  Batch make(int64_t micro_index);
  Batch put_together(int64_t micro_index,
                     std::vector<int64_t> rows_read,
                     const std::vector<Example>& examples) const;
  void work(const std::stop_token& stop);
  std::shared_ptr<Making> begin_row();
  Made finish(Making& making) const;

  const std::shared_ptr<const Source> source;
  const LoaderOptions options;
  const int64_t rows;
  int64_t micro_batch = 0;  // samples
  int64_t ahead = 0;        // micro-batches, the one that next() returns among them

  std::mutex order_mutex;
  std::map<int64_t, Order> orders;  // of two epochs at most: threads may stand on both sides

  mutable std::mutex mutex;
  std::condition_variable_any has_room, has_batch;
  int64_t next_out = 0;            // the micro-batch that next() returns
  int64_t next_made = 0;           // the first that no thread has begun
  int64_t generation = 0;          // counts seeks: what was begun before one is dropped
  std::shared_ptr<Making> making;  // the last that was begun, while it has rows for a thread
  std::map<int64_t, Made> made;
  std::vector<std::jthread> threads;  // last: they end before what they use
};

Loader::Impl::Order Loader::Impl::order_of(int64_t epoch) {
  const std::lock_guard lock(order_mutex);
  Order& order = orders[epoch];
  if (!order) {
    order =
        std::make_shared<const std::vector<int64_t>>(epoch_permutation(options.seed, epoch, rows));
  }
  const Order found = order;
  std::erase_if(orders, [epoch](const auto& entry) {
    return entry.first < epoch - 1 || entry.first > epoch + 1;
  });
  return found;
}

int64_t Loader::Impl::slot_of(int64_t micro_index, int64_t i) const {
  const int64_t micro = micro_index % options.micro_batches;
  return (micro * options.world + options.rank) * micro_batch + i;
}

std::vector<int64_t> Loader::Impl::rows_of(int64_t micro_index) {
  const int64_t batch = micro_index / options.micro_batches;
  const int64_t epoch_batches = rows / options.global_batch;
  const Order order = order_of(batch / epoch_batches);
  const int64_t first_row = (batch % epoch_batches) * options.global_batch;
  std::vector<int64_t> found;
  for (int64_t i = 0; i < micro_batch; ++i) {
    found.push_back((*order)[static_cast<std::size_t>(first_row + slot_of(micro_index, i))]);
  }
  return found;
}

Batch Loader::Impl::put_together(int64_t micro_index,
                                 std::vector<int64_t> rows_read,
                                 const std::vector<Example>& examples) const {
  Batch batch;
  batch.index = micro_index / options.micro_batches;
  batch.rows = std::move(rows_read);
  for (int64_t i = 0; i < micro_batch; ++i) {
    batch.slots.push_back(slot_of(micro_index, i));
    batch.captions.push_back(examples[static_cast<std::size_t>(i)].caption);
  }
  const Read read{examples, batch.rows, *source};
  batch.latents = join(read, {&Example::latents, "latents"}, options.latent_frames);
  batch.trajectory = join(read, {&Example::trajectory, "trajectories"});
  batch.trajectory_timesteps =
      join(read, {&Example::trajectory_timesteps, "timesteps of trajectories"});
  batch.text = join_texts(read, options.text_rows);
  return batch;
}

Batch Loader::Impl::make(int64_t micro_index) {
  const at::NoGradGuard no_gradients;
  std::vector<int64_t> wanted = rows_of(micro_index);
  std::vector<Example> examples;
  for (const int64_t row : wanted) {
    examples.push_back(source->get(row));
  }
  return put_together(micro_index, std::move(wanted), examples);
}

// The micro-batch that has a row to read, maybe a new one. Under the lock.
std::shared_ptr<Loader::Impl::Making> Loader::Impl::begin_row() {
  if (!making) {
    making = std::make_shared<Making>();
    making->index = next_made++;
    making->rows = rows_of(making->index);
    making->examples.resize(making->rows.size());
    making->errors.resize(making->rows.size());
  }
  std::shared_ptr<Making> found = making;
  ++found->num_begun;
  if (found->num_begun == found->rows.size()) {
    making.reset();  // the next thread begins another
  }
  return found;
}

// All rows are there; of several errors the first row's counts, whichever thread was faster.
Loader::Impl::Made Loader::Impl::finish(Making& done) const {
  Made result;
  for (const std::exception_ptr& error : done.errors) {
    if (error) {
      result.error = error;
      return result;
    }
  }
  try {
    result.batch = put_together(done.index, std::move(done.rows), done.examples);
  } catch (...) {
    result.error = std::current_exception();
  }
  done.examples.clear();  // here, where nobody waits for the lock
  return result;
}

void Loader::Impl::work(const std::stop_token& stop) {
  const at::NoGradGuard no_gradients;
  ::omp_set_num_threads(1);  // copies of this thread alone: the cores belong to the training step
  std::unique_lock lock(mutex);
  while (has_room.wait(lock, stop, [this] { return making || next_made < next_out + ahead; })) {
    const int64_t begun = generation;
    const std::shared_ptr<Making> mine = begin_row();
    const std::size_t place = mine->num_begun - 1;
    lock.unlock();
    try {
      mine->examples[place] = source->get(mine->rows[place]);
    } catch (...) {
      mine->errors[place] = std::current_exception();
    }
    lock.lock();
    if (++mine->num_read < mine->errors.size() || begun != generation) {
      continue;
    }
    const int64_t index = mine->index;
    lock.unlock();
    Made result = finish(*mine);
    lock.lock();
    if (begun == generation) {
      made[index] = std::move(result);
      has_batch.notify_all();
    }
  }
}

Loader::Loader(std::shared_ptr<const Source> source, const LoaderOptions& options)
    : impl_(std::make_unique<Impl>(std::move(source), options)) {
  if (options.prefetch > 0) {
    for (int64_t i = 0; i < std::max<int64_t>(1, options.threads); ++i) {
      impl_->threads.emplace_back([impl = impl_.get()](std::stop_token stop) { impl->work(stop); });
    }
  }
}

Loader::~Loader() = default;

Batch Loader::next() {
  Impl& it = *impl_;
  std::unique_lock lock(it.mutex);
  if (it.threads.empty()) {
    Batch batch = it.make(it.next_out);
    ++it.next_out;
    return batch;
  }
  it.has_batch.wait(lock, [&it] { return it.made.contains(it.next_out); });
  const auto found = it.made.find(it.next_out);
  if (found->second.error) {
    std::rethrow_exception(found->second.error);
  }
  Batch batch = std::move(found->second.batch);
  it.made.erase(found);
  ++it.next_out;
  it.has_room.notify_all();
  return batch;
}

int64_t Loader::position() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->next_out / impl_->options.micro_batches;
}

void Loader::seek(int64_t batches_consumed) {
  invariant(batches_consumed >= 0, "a position is not negative");
  const std::lock_guard lock(impl_->mutex);
  impl_->next_out = impl_->next_made = batches_consumed * impl_->options.micro_batches;
  ++impl_->generation;
  impl_->making.reset();
  impl_->made.clear();
  impl_->has_room.notify_all();
}

int64_t Loader::batches_per_epoch() const {
  return impl_->rows / impl_->options.global_batch;
}

}  // namespace fastwan::data
