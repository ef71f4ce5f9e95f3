#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <memory>

#include <fmt/format.h>

#include "core/npy.h"
#include "tools/cli/commands.h"
#include "tools/cli/help.h"
#include "tools/cli/options.h"
#include "tools/fields/vtu.h"
#include "tools/train/job_display.h"
#include "tools/train/run_folder.h"
#include "tools/train/signals.h"
#include "tools/train/trained_model.h"

namespace flare {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::string source, weights, input, split, output, device = "auto";
  int64_t sample = -1;  // -1: all
  std::vector<std::string> assignments;
  bool json = false, quiet = false;
};

/// Some rows on their way from the model to a file; x and y only of fields, mask only where samples differ in length.
struct Rows {
  int64_t first = 0;
  Tensor output, x, y, mask;
};
using Sink = std::function<void(const Rows&)>;

int64_t length_of(const Tensor& mask, int64_t row) {
  int64_t n = 0;
  for (int64_t p = 0; p < mask.size(1); ++p) n += mask.item(row * mask.size(1) + p) != 0;
  return n;
}

/// The range of rows that --sample chooses of `count`.
std::pair<int64_t, int64_t> chosen(const Options& o, int64_t count, const std::string& of) {
  check<ConfigError>(o.sample < count, "--sample ", o.sample, ": ", of, " has samples 0 to ", count - 1);
  return o.sample < 0 ? std::pair(int64_t{0}, count) : std::pair(o.sample, o.sample + 1);
}

/// Rows [begin, end) of an array, in batches.
void predict_rows(Task& task, const Tensor& input, int64_t begin, int64_t end, const EvaluationOptions& options,
                  const std::string& name, const Sink& sink) {
  Context context;
  context.dtype = options.dtype;
  for (int64_t first = begin; first < end; first += options.batch_size) {
    Shape shape = input.shape();
    shape[0] = std::min(options.batch_size, end - first);
    Rows rows;
    rows.first = first;
    rows.x = input.view(shape, input.strides(), first * input.strides()[0]);
    try {
      rows.output = task.predict(rows.x, context, options.device);
    } catch (const DataError& error) { throw DataError(cat(name, ": rows from ", first, ": ", error.what())); }
    sink(rows);
  }
}

/// Samples [begin, end) of a split, in batches.
void predict_split(Task& task, const PreparedFolder& folder, const Options& o, int64_t begin, int64_t end,
                   const EvaluationOptions& options, const Sink& sink) {
  const int64_t batch_size = end - begin == 1 ? 1 : options.batch_size;
  Loader loader(folder, o.split, in_order(options, batch_size, false));
  loader.seek(begin / batch_size);
  Context context;
  context.dtype = options.dtype;
  for (int64_t first = begin; first < end;) {
    const Batch batch = loader.next();
    const Tensor output = task.forward(to_device(batch, options.device), context);
    sink({first, cast_to(to_device(output, Device::cpu), DType::f32), batch.x, batch.y, batch.mask});
    first += batch.n_samples;
  }
}

/// "y.npy: f32 [200,972,1] of 200 rows, weights ..." or "y-0000.vtu to y-0003.vtu of 4 rows, weights ...".
std::string describe_output(const Json& result) {
  std::string what = result["output"];
  if (result.contains("last_output")) what += " to " + fs::path(result["last_output"].get<std::string>()).filename().string();
  if (result.contains("shape"))
    what +=
        fmt::format(": {} [{}]", result["dtype"].get<std::string>(), fmt::join(result["shape"].get<std::vector<int64_t>>(), ","));
  const int64_t rows = result["rows"];
  return fmt::format("{} of {} {}, weights {}\n", what, rows, rows == 1 ? "row" : "rows", result["weights"].get<std::string>());
}

/// Collects outputs of one shape and writes them as one array.
class NpyOutput {
 public:
  NpyOutput(const Options& o, int64_t begin, int64_t end) : path_(o.output), begin_(begin), count_(end - begin) {}
  void add(const Rows& rows) {
    Tensor part = rows.output;
    if (rows.mask && part.ndim() == 3) {  // points, some of them padding
      check<ConfigError>(count_ == 1,
                         "the samples differ in their number of points, which one array cannot hold; choose one with "
                         "--sample, or write .vtu files");
      part = contiguous(part.view({1, length_of(rows.mask, 0), part.size(2)}, part.strides()));
    }
    if (!all_) {
      Shape whole = part.shape();
      whole[0] = count_;
      all_ = Tensor::empty(whole, part.dtype());
    }
    check<ConfigError>(part.shape().without(0) == all_.shape().without(0),
                       "the samples differ in their number of points, which one "
                       "array cannot hold; choose one with --sample, or write .vtu files");
    copy(part, all_.view(part.shape(), all_.strides(), (rows.first - begin_) * all_.strides()[0]));
  }
  Json finish() const {
    write_npy(path_, all_);
    Json result = {{"output", path_}, {"dtype", cat(all_.dtype())}, {"shape", Json::array()}};
    for (const int64_t extent : all_.shape()) result["shape"].push_back(extent);
    return result;
  }

 private:
  std::string path_;
  int64_t begin_, count_;
  Tensor all_;
};

/// Writes a file a sample: the output itself, or numbered ones beside it.
class VtuOutput {
 public:
  VtuOutput(const Options& o, const DatasetInfo& info, int64_t begin, int64_t end)
      : path_(o.output), info_(info), count_(end - begin), last_(end - 1) {}
  void add(const Rows& rows) {
    for (int64_t i = 0; i < rows.output.size(0); ++i) {
      const int64_t points = rows.mask ? length_of(rows.mask, i) : rows.x.size(1);
      write_vtu(name_of(rows.first + i), field_sample(info_, rows.x, rows.output, rows.y, i, points));
    }
  }
  Json finish() const {
    if (count_ == 1) return {{"output", path_}};
    return {{"output", name_of(last_ - count_ + 1)}, {"last_output", name_of(last_)}};
  }

 private:
  std::string name_of(int64_t sample) const {
    if (count_ == 1) return path_;
    const fs::path path(path_);
    return (path.parent_path() / fmt::format("{}-{:04}{}", path.stem().string(), sample, path.extension().string())).string();
  }
  std::string path_;
  DatasetInfo info_;
  int64_t count_, last_;
};

void run_predict(const Options& o) {
  check<ConfigError>(o.input.empty() != o.split.empty(),
                     "predict: give what to predict from: --input FILE.npy, or --split NAME of the run's data folder");
  check<ConfigError>(!o.output.empty(), "predict: --output is required: a .npy or .vtu file to write");
  const std::string extension = fs::path(o.output).extension().string();
  check<ConfigError>(extension == ".npy" || extension == ".vtu", "--output ", o.output, ": the file must end in .npy or .vtu");
  if (extension == ".vtu") {
    const PreparedFolder data = open_data(recipe_of(o.source, o.assignments));
    check<ConfigError>(data.info().kind == "field_regression", "--output ", o.output, ": ", data.path(),
                       " holds no fields on points, so there is nothing for a .vtu file; write a .npy file");
  }
  const TrainedModel model = load_trained(o.source, {o.weights, o.device, o.assignments});
  const PreparedFolder& folder = model.folder;

  Tensor input;
  int64_t count = 0;
  if (o.split.empty()) {
    input = read_npy(o.input);
    check<DataError>(input.ndim() >= 2, o.input, ": expected an array of at least two axes, got ", input.shape());
    count = input.size(0);
    check<DataError>(count > 0, o.input, ": holds no rows");
  } else {
    count = folder.count(o.split);
    check<DataError>(count > 0, folder.path(), ": split ", o.split, " is empty");
  }
  const auto [begin, end] = chosen(o, count, o.split.empty() ? o.input : "split " + o.split);
  catch_stop_signals("after this batch");
  const JobDisplay display(o.quiet);
  const auto write_to = [&, begin = begin, end = end](auto output) {
    Job job("predicting", end - begin, "rows");
    const Sink sink = [&](const Rows& rows) {
      job.check_stop();
      output.add(rows);
      job.advance(rows.output.size(0));
    };
    const NoGrad no_grad;
    if (input)
      predict_rows(*model.task, input, begin, end, model.options, o.input, sink);
    else
      predict_split(*model.task, folder, o, begin, end, model.options, sink);
    return output.finish();
  };
  Json result = extension == ".vtu" ? write_to(VtuOutput(o, folder.info(), begin, end)) : write_to(NpyOutput(o, begin, end));
  result["rows"] = end - begin;
  result["weights"] = model.weights;
  if (o.json)
    std::printf("%s\n", result.dump().c_str());
  else
    std::printf("%s", describe_output(result).c_str());
}

}  // namespace

void add_predict(CLI::App& app, int&) {
  const auto o = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("predict",
                         "Run a trained model on an array, or on samples of its data folder: tokens [n,N] (integers, "
                         "0 pads) -> logits [n,K], or points with channels [n,N,in] -> fields [n,N,out]");
  add_run_option(*command, o->source);
  command->add_option("--input", o->input, ".npy file to read")->type_name("FILE");
  command
      ->add_option("--split", o->split,
                   "in place of --input: a split of the data folder; a .vtu file then also holds truth and error")
      ->type_name("SPLIT");
  command->add_option("--sample", o->sample, "only this row of the input or sample of the split, from 0")
      ->check(CLI::NonNegativeNumber);
  command
      ->add_option("--output", o->output,
                   "file to write: .npy with the outputs of all rows, or .vtu for ParaView (fields), where several rows become "
                   "files numbered by row: y-0000.vtu, y-0001.vtu, ...")
      ->type_name("FILE");
  add_weights_option(*command, o->weights);
  add_device_option(*command, o->device);
  add_set_option(*command, o->assignments);
  command->add_flag("--json", o->json, "print one JSON object");
  command->add_flag("--quiet", o->quiet, "no progress on stderr");
  command->footer(help_footer({"flare predict runs/listops-mini --input tokens.npy --output logits.npy",
                               "flare predict runs/darcy --split test --sample 0 --output field.vtu",
                               "flare predict runs/darcy --input points.npy --output fields.npy --device cpu --json"},
                              "output, dtype, shape, rows, weights; of .vtu files the first and last_output"));
  command->callback([o] { run_predict(*o); });
}

}  // namespace flare
