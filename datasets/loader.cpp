#include "datasets/loader.h"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <mutex>
#include <numeric>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "core/rng.h"
#include "datasets/format.h"

namespace flare {
namespace {

constexpr size_t kBatchesAhead = 4;
constexpr uint64_t kStream = uint64_t{0x5348} << 48;  // keeps the shuffle apart from the generators' random numbers

/// Rows of a batch: the fixed length if one is asked for, else that of the longest sample, rounded up.
int64_t batch_length(const Column& c, std::span<const int64_t> samples, const LoaderOptions& o) {
  if (o.pad_to > 0) return o.pad_to;
  int64_t longest = 0;
  for (int64_t i : samples) longest = std::max(longest, c.length(i));
  if (o.pad_step == 0 || !c.field.ragged) return longest;
  const int64_t rounded = (longest + o.pad_step - 1) / o.pad_step * o.pad_step;
  return o.pad_limit == 0 ? rounded : std::max(longest, std::min(rounded, o.pad_limit));
}

template <class From, class To> void convert(const char* from, int64_t n, To* to) {
  const From* values = reinterpret_cast<const From*>(from);
  for (int64_t i = 0; i < n; ++i) to[i] = static_cast<To>(values[i]);
}

template <class To> void convert_rows(const Column& c, int64_t row, int64_t n_rows, To* to) {
  const int64_t n = n_rows * c.row_elements;
  switch (c.field.dtype) {
    case DType::u8: return convert<uint8_t>(c.row(row), n, to);
    case DType::i32: return convert<int32_t>(c.row(row), n, to);
    case DType::i64: return convert<int64_t>(c.row(row), n, to);
    case DType::f32: return convert<float>(c.row(row), n, to);
    case DType::f64: return convert<double>(c.row(row), n, to);
    default: throw DataError(cat(c.file, ": dtype ", c.field.dtype, " cannot be loaded"));
  }
}

/// Gathers samples into [B, n, ...], zero past their ends; returns the number of rows copied. The mask stays undefined when no
/// sample can ever need it.
template <class To> int64_t gather(const Column& c, std::span<const int64_t> samples, int64_t n, Tensor& out, Tensor& mask) {
  const int64_t n_samples = static_cast<int64_t>(samples.size());
  const bool needs_mask = c.field.ragged || n > c.rows_per_sample;
  Shape shape{n_samples, n};
  for (int a = c.field.ragged ? 0 : 1; a < c.field.shape.ndim(); ++a) shape.push_back(c.field.shape[a]);
  out = Tensor::empty(shape, dtype_of<To>);
  mask = needs_mask ? Tensor::empty({n_samples, n}, DType::u8) : Tensor();
  int64_t n_rows = 0;
  for (int64_t b = 0; b < n_samples; ++b) {
    const int64_t i = samples[static_cast<size_t>(b)], length = std::min(c.length(i), n);
    To* to = out.data<To>() + b * n * c.row_elements;
    convert_rows(c, c.begin(i), length, to);
    std::fill(to + length * c.row_elements, to + n * c.row_elements, To{0});
    if (needs_mask) {
      std::memset(mask.data<uint8_t>() + b * n, 1, static_cast<size_t>(length));
      std::memset(mask.data<uint8_t>() + b * n + length, 0, static_cast<size_t>(n - length));
    }
    n_rows += length;
  }
  return n_rows;
}

}  // namespace

struct Loader::Impl {
  const PreparedFolder folder;
  const std::string split;
  const LoaderOptions options;
  int64_t n_samples = 0, n_batches = 0;  // n_batches: an epoch's
  int64_t position = 0;
  int64_t side = 0;  // of the pictures, where they are turned

  std::vector<int64_t> order;  // of epoch `order_epoch`; used by the one thread that builds batches
  int64_t order_epoch = -1;

  struct Item {
    int64_t index;
    Batch batch;
    std::exception_ptr error;
  };
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<Item> ready;
  int64_t next_to_build = 0;
  bool stop = false;
  std::thread worker;

  Impl(const PreparedFolder& folder, const std::string& split, const LoaderOptions& options)
      : folder(folder), split(split), options(options) {
    check<ConfigError>(options.batch_size >= 1, "loader: batch size ", options.batch_size, " is below 1");
    check<ConfigError>(options.pad_to >= 0, "loader: pad_to ", options.pad_to, " is negative");
    check<ConfigError>(options.pad_step >= 0 && options.pad_limit >= 0, "loader: pad_step ", options.pad_step, " or pad_limit ",
                       options.pad_limit, " is negative");
    n_samples = folder.count(split);
    check<ConfigError>(options.masking.share <= 0 || (folder.has_field("tokens") && !folder.column(split, "tokens").field.ragged),
                       folder.path(), ": masking needs tokens, equally many in every sample");
    if (options.symmetries != Symmetries::none) {
      const Column& c = folder.column(split, folder.has_field("tokens") ? "tokens" : "x");
      side = c.field.ragged ? 0 : square_side(c.rows_per_sample);
      check<ConfigError>(side > 0 && folder.has_field("labels") && !folder.has_field("tokens_b") && options.pad_to == 0,
                         folder.path(), ": task.symmetries needs square pictures with labels, one a sample; set it to none");
    }
    const int64_t b = options.batch_size;
    n_batches = options.drop_last ? n_samples / b : (n_samples + b - 1) / b;
    check<DataError>(n_batches > 0, folder.path(), ": split ", split, " has ", n_samples, " samples, too few for one batch of ", b,
                     n_samples > 0 ? "; lower train.batch_size" : "");
    folder.validate(split);
    order.resize(static_cast<size_t>(n_samples));
    if (options.prefetch) worker = std::thread([this] { work(); });
  }

  ~Impl() {
    {
      const std::lock_guard<std::mutex> lock(mutex);
      stop = true;
    }
    changed.notify_all();
    if (worker.joinable()) worker.join();
  }

  void set_epoch(int64_t epoch) {
    if (epoch == order_epoch) return;
    std::iota(order.begin(), order.end(), int64_t{0});
    if (options.shuffle) {
      Rng rng(options.seed, kStream + static_cast<uint64_t>(epoch));
      for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[rng.below(i)]);
    }
    order_epoch = epoch;
  }

  /// Whether both sequences of a pair get one length: two would make as many shapes as there are pairs of lengths.
  bool pads_pairs() const {
    return options.pad_step > 0 && folder.has_field("tokens") && folder.has_field("tokens_b") &&
           folder.column(split, "tokens").field.ragged && folder.column(split, "tokens_b").field.ragged;
  }

  Batch build(int64_t index) {
    Batch batch;
    batch.epoch = index / n_batches;
    set_epoch(batch.epoch);
    const int64_t first = index % n_batches * options.batch_size, last = std::min(n_samples, first + options.batch_size);
    const std::span<const int64_t> samples(order.data() + first, static_cast<size_t>(last - first));
    batch.n_samples = last - first;
    const int64_t pair_length = pads_pairs() ? std::max(batch_length(folder.column(split, "tokens"), samples, options),
                                                        batch_length(folder.column(split, "tokens_b"), samples, options))
                                             : 0;
    for (const FieldInfo& field : folder.info().fields) {
      const Column& c = folder.column(split, field.name);
      // The split was validated, but its files may have changed under the mapping: an id outside the vocabulary would make a
      // kernel read outside its table.
      for (int64_t i : samples) {
        const std::string problem = sample_problem(c, folder.info(), split, i);
        check<DataError>(problem.empty(), problem);
      }
      Tensor no_mask;
      const auto length = [&] { return pair_length > 0 && c.field.ragged ? pair_length : batch_length(c, samples, options); };
      if (field.name == "tokens") {
        batch.n_tokens += gather<int64_t>(c, samples, length(), batch.tokens, batch.mask);
      } else if (field.name == "tokens_b") {
        batch.n_tokens += gather<int64_t>(c, samples, length(), batch.tokens_b, batch.mask_b);
      } else if (field.name == "labels") {
        batch.labels = Tensor::empty({batch.n_samples}, DType::i64);
        for (int64_t b = 0; b < batch.n_samples; ++b) batch.labels.data<int64_t>()[b] = c.integer(samples[static_cast<size_t>(b)]);
      } else if (field.name == "x") {
        batch.n_tokens += gather<float>(c, samples, length(), batch.x, folder.has_field("tokens") ? no_mask : batch.mask);
      } else if (field.name == "y") {
        gather<float>(c, samples, length(), batch.y, no_mask);
      }
    }
    if (side > 0) turn(batch, samples);
    if (options.masking.share > 0) hide_tokens(batch, samples);
    return batch;
  }

  /// Numbers a sample of an epoch, for draws that are other ones in every epoch.
  uint64_t draw_of(const Batch& batch, std::span<const int64_t> samples, int64_t b) const {
    return static_cast<uint64_t>(batch.epoch * n_samples + samples[static_cast<size_t>(b)]);
  }
  void turn(Batch& batch, std::span<const int64_t> samples) const {
    for (int64_t b = 0; b < batch.n_samples; ++b) {
      const int symmetry = drawn_symmetry(options.symmetries, options.seed, draw_of(batch, samples, b));
      if (batch.tokens)
        apply_symmetry(batch.tokens.data<int64_t>() + b * side * side, side, 1, symmetry);
      else
        apply_symmetry(batch.x.data<float>() + b * batch.x.numel() / batch.n_samples, side,
                       batch.x.numel() / batch.n_samples / side / side, symmetry);
    }
  }

  void hide_tokens(Batch& batch, std::span<const int64_t> samples) const {
    const int64_t n = batch.tokens.size(1), length = std::min(n, folder.column(split, "tokens").rows_per_sample);
    batch.masked = Tensor::empty({batch.n_samples, masked_count(options.masking, length)}, DType::i64);
    batch.labels = Tensor::empty(batch.masked.shape(), DType::i64);
    int64_t *tokens = batch.tokens.data<int64_t>(), *masked = batch.masked.data<int64_t>(), *labels = batch.labels.data<int64_t>();
    for (int64_t b = 0; b < batch.n_samples; ++b) {
      for (const int64_t position : masked_positions(options.masking, length, draw_of(batch, samples, b))) {
        const int64_t row = b * n + position;
        *masked++ = row;
        *labels++ = std::exchange(tokens[row], options.masking.token);
      }
    }
  }

  void work() {
    std::unique_lock<std::mutex> lock(mutex);
    while (!stop) {
      if (ready.size() >= kBatchesAhead || (!ready.empty() && ready.back().error)) {
        changed.wait(lock);
        continue;
      }
      Item item{next_to_build, {}, nullptr};
      lock.unlock();
      try {
        item.batch = build(item.index);
      } catch (...) { item.error = std::current_exception(); }
      lock.lock();
      if (item.index != next_to_build) continue;  // seek() came in between
      ++next_to_build;
      ready.push_back(std::move(item));
      changed.notify_all();
    }
  }

  Batch next() {
    if (!options.prefetch) {
      Batch batch = build(position);
      ++position;
      return batch;
    }
    std::unique_lock<std::mutex> lock(mutex);
    changed.wait(lock, [this] { return !ready.empty(); });
    if (ready.front().error) std::rethrow_exception(ready.front().error);  // stays in front: every further call fails alike
    Batch batch = std::move(ready.front().batch);
    ready.pop_front();
    ++position;
    changed.notify_all();
    return batch;
  }

  void seek(int64_t index) {
    check<ConfigError>(index >= 0, "loader: cannot seek to batch ", index);
    const std::lock_guard<std::mutex> lock(mutex);
    position = next_to_build = index;
    ready.clear();
    changed.notify_all();
  }
};

Loader::Loader(const PreparedFolder& folder, const std::string& split, const LoaderOptions& options)
    : impl_(std::make_unique<Impl>(folder, split, options)) {}
Loader::~Loader() = default;
int64_t Loader::n_samples() const { return impl_->n_samples; }
int64_t Loader::batches_per_epoch() const { return impl_->n_batches; }
Batch Loader::next() { return impl_->next(); }
void Loader::seek(int64_t batch_index) { impl_->seek(batch_index); }
int64_t Loader::position() const { return impl_->position; }

}  // namespace flare
