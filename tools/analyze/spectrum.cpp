#include "tools/analyze/spectrum.h"

#include <algorithm>
#include <cmath>
#include <map>

#include <fmt/format.h>
#include <Eigen/Dense>

#include "autograd/node.h"
#include "core/parallel.h"

namespace flare {
namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

constexpr int64_t kTokensAtOnce = 1024;

Eigen::ArrayXd log_sum_exp_of_columns(const Matrix& s) {
  const Eigen::RowVectorXd most = s.colwise().maxCoeff();
  return (s.rowwise() - most).array().exp().colwise().sum().log().transpose() + most.transpose().array();
}

/// The block that a mixer's scope, such as blocks.3.att, belongs to.
int64_t block_of(const std::string& scope) {
  const std::string key = "blocks.";
  const size_t at = scope.find(key);
  check(at != std::string::npos, "spectrum: a mixer outside the blocks of the model, in ", scope);
  return std::atoll(scope.c_str() + at + key.size());
}

/// Sums of spectra by block, as the mixers of one forward pass report what they route by.
class Collector {
 public:
  void add(const Routing& routing) {
    const int64_t block = block_of(ScopeName::current());
    const Tensor q = on_host(routing.q), k = on_host(routing.k),
                 mask = routing.mask ? to_device(routing.mask, Device::cpu) : Tensor();
    const int64_t heads = q.size(-3), latents = q.size(-2), width = q.size(-1), batch = k.size(0), tokens = k.size(1);
    std::vector<std::vector<double>>& sums = sums_[block];
    sums.resize(static_cast<size_t>(heads), std::vector<double>(static_cast<size_t>(latents)));
    for (int64_t b = 0; b < batch; ++b) {
      std::vector<int64_t> kept;
      for (int64_t n = 0; n < tokens; ++n)
        if (!mask || mask.item(b * tokens + n) != 0) kept.push_back(n);
      parallel_for(heads, 1, [&](int64_t begin, int64_t end) {
        for (int64_t h = begin; h < end; ++h) {
          std::vector<double> keys;
          keys.reserve(kept.size() * static_cast<size_t>(width));
          for (const int64_t n : kept) {
            const double* row = k.data<double>() + ((b * tokens + n) * heads + h) * width;
            keys.insert(keys.end(), row, row + width);
          }
          const int64_t first = (q.ndim() == 4 ? b * heads + h : h) * latents * width;
          const std::vector<double> values = routing_spectrum(q.data<double>() + first, keys.data(), latents,
                                                              static_cast<int64_t>(kept.size()), width, routing.scale);
          for (size_t i = 0; i < values.size(); ++i) sums[static_cast<size_t>(h)][i] += values[i];
        }
      });
      ++counts_[block];
    }
  }
  std::vector<LayerSpectrum> means() const {
    std::vector<LayerSpectrum> layers;
    for (const auto& [block, sums] : sums_) {
      LayerSpectrum layer{block, {}};
      for (std::vector<double> values : sums) {
        for (double& v : values) v /= static_cast<double>(counts_.at(block));
        layer.heads.push_back({std::move(values)});
      }
      layers.push_back(std::move(layer));
    }
    return layers;
  }

 private:
  static Tensor on_host(const Tensor& x) { return contiguous(cast_to(to_device(x, Device::cpu), DType::f64)); }
  std::map<int64_t, std::vector<std::vector<double>>> sums_;
  std::map<int64_t, int64_t> counts_;
};

}  // namespace

std::vector<double> routing_spectrum(const double* q, const double* k, int64_t latents, int64_t tokens, int64_t width,
                                     double scale) {
  check(latents >= 1 && tokens >= 1 && width >= 1, "spectrum: ", latents, " latents, ", tokens, " tokens, width ", width);
  const Eigen::Map<const Matrix> queries(q, latents, width), keys(k, tokens, width);
  const auto part = [&](int64_t first) -> Matrix {
    return scale * queries * keys.middleRows(first, std::min(kTokensAtOnce, tokens - first)).transpose();
  };
  // l, over all tokens, as a running maximum and sum.
  Eigen::ArrayXd most = Eigen::ArrayXd::Constant(latents, -std::numeric_limits<double>::infinity());
  Eigen::ArrayXd sum = Eigen::ArrayXd::Zero(latents);
  for (int64_t first = 0; first < tokens; first += kTokensAtOnce) {
    const Matrix s = part(first);
    const Eigen::ArrayXd next = most.max(s.rowwise().maxCoeff().array());
    sum = sum * (most - next).exp() + (s.colwise() - next.matrix()).array().exp().rowwise().sum();
    most = next;
  }
  const Eigen::VectorXd encode = (most + sum.log()).matrix();
  Matrix product = Matrix::Zero(latents, latents);
  for (int64_t first = 0; first < tokens; first += kTokensAtOnce) {
    Matrix b = part(first);
    const Eigen::RowVectorXd decode = log_sum_exp_of_columns(b).matrix().transpose();
    b = ((b.colwise() - encode / 2).rowwise() - decode / 2).array().exp();
    product.selfadjointView<Eigen::Lower>().rankUpdate(b);
  }
  check<NumericError>(product.diagonal().allFinite(), "spectrum: the logits of the mixer are not finite");
  const Eigen::SelfAdjointEigenSolver<Matrix> solver(product, Eigen::EigenvaluesOnly);  // reads the lower half
  check<NumericError>(solver.info() == Eigen::Success, "spectrum: the eigenvalues did not converge");
  std::vector<double> values(static_cast<size_t>(latents));
  for (int64_t i = 0; i < latents; ++i) values[static_cast<size_t>(i)] = std::max(0.0, solver.eigenvalues()[latents - 1 - i]);
  return values;
}

double effective_rank(const std::vector<double>& eigenvalues) {
  double sum = 0, entropy = 0;
  for (const double v : eigenvalues) sum += v;
  for (const double v : eigenvalues)
    if (v > 0) entropy -= v / sum * std::log(v / sum);
  return std::exp(entropy);
}

int64_t above_one_percent(const std::vector<double>& eigenvalues) {
  return std::count_if(eigenvalues.begin(), eigenvalues.end(), [](double v) { return v > 0.01; });
}

std::vector<LayerSpectrum> spectra_of(Task& task, const PreparedFolder& folder, const std::string& split, int64_t samples,
                                      const EvaluationOptions& options) {
  check<ConfigError>(samples >= 1, "--samples: ", samples, " is below 1");
  check<DataError>(folder.count(split) > 0, folder.path(), ": split ", split, " is empty");
  Loader loader(folder, split, in_order(options, 1, false));
  Collector collector;
  Context context;
  context.dtype = options.dtype;
  context.on_routing = [&](const Routing& routing) { collector.add(routing); };
  const NoGrad no_grad;
  const int64_t n = std::min(samples, folder.count(split));
  for (int64_t i = 0; i < n; ++i) {
    context.next_site = 0;
    task.forward(to_device(loader.next(), options.device), context);
    if (options.on_batch) options.on_batch(i + 1, n);
  }
  std::vector<LayerSpectrum> layers = collector.means();
  check<ConfigError>(!layers.empty(),
                     "model.mixer: this model routes through no latents, so it has no spectrum; flare and flare++ do");
  return layers;
}

Json spectrum_json(const std::vector<LayerSpectrum>& layers) {
  Json out = Json::array();
  for (const LayerSpectrum& layer : layers) {
    Json heads = Json::array();
    for (size_t h = 0; h < layer.heads.size(); ++h) {
      const std::vector<double>& values = layer.heads[h].eigenvalues;
      Json rounded = Json::array();
      for (const double v : values) rounded.push_back(std::stod(fmt::format("{:.8g}", v)));
      heads.push_back({{"head", h},
                       {"eigenvalues", std::move(rounded)},
                       {"effective_rank", effective_rank(values)},
                       {"above_1_percent", above_one_percent(values)}});
    }
    out.push_back({{"block", layer.block}, {"heads", std::move(heads)}});
  }
  return {{"layers", std::move(out)}};
}

std::string spectrum_table(const std::vector<LayerSpectrum>& layers) {
  if (layers.empty()) return "";
  const auto heads = layers.front().heads.size(), latents = layers.front().heads.front().eigenvalues.size();
  std::string text =
      fmt::format("{:5}  {:>{}}  {:>7}  {:>9}\n", "block", "effective rank of each head, of " + std::to_string(latents),
                  7 * std::max<size_t>(heads, 5), "mean", "above 1 %");
  for (const LayerSpectrum& layer : layers) {
    std::string row;
    double rank = 0, above = 0;
    for (const HeadSpectrum& head : layer.heads) {
      const double r = effective_rank(head.eigenvalues);
      row += fmt::format("{:7.1f}", r);
      rank += r / static_cast<double>(layer.heads.size());
      above += static_cast<double>(above_one_percent(head.eigenvalues)) / static_cast<double>(layer.heads.size());
    }
    text += fmt::format("{:5}  {:>{}}  {:7.1f}  {:9.1f}\n", layer.block, row, 7 * std::max<size_t>(heads, 5), rank, above);
  }
  return text;
}

}  // namespace flare
