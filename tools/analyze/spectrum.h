#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "tools/train/evaluate.h"

namespace flare {

/// Eigenvalues, descending, of the operator W_dec·W_enc by which one head of a FLARE mixer exchanges values between tokens:
///   S = scale·q·kᵀ [M,N],   W_enc = softmax of S over tokens,   W_dec = softmax of Sᵀ over latents
/// It has rank at most M; its other eigenvalues, 0, are left out. They are those of W_enc·W_dec, a matrix similar to B·Bᵀ with
/// B[m,n] = exp(S[m,n] − (ℓ_m + λ_n)/2), ℓ and λ the log-sum-exps of S along tokens and latents: symmetric and positive
/// semidefinite, so the eigenvalues are real and in [0,1], the largest 1. f64; no exponent is above 0, so nothing overflows.
/// q [M,D], k [N,D], f64, row-major; in O(M²N).
std::vector<double> routing_spectrum(const double* q, const double* k, int64_t latents, int64_t tokens, int64_t width,
                                     double scale);

/// exp of the entropy of the eigenvalues divided by their sum: M when all are equal, 1 when one is alone.
double effective_rank(const std::vector<double>& eigenvalues);
/// How many exceed 1 % of the largest that can be, 1.
int64_t above_one_percent(const std::vector<double>& eigenvalues);

struct HeadSpectrum {
  std::vector<double> eigenvalues;  // [M], the i-th largest averaged over samples
};
struct LayerSpectrum {
  int64_t block = 0;
  std::vector<HeadSpectrum> heads;
};

/// The spectra of every layer and head, averaged over the first `samples` samples of a split (all if it has fewer); a pair of
/// sequences counts as two. Padding takes no part. ConfigError when the model has no FLARE or FLARE++ mixer.
std::vector<LayerSpectrum> spectra_of(Task& task, const PreparedFolder& folder, const std::string& split, int64_t samples,
                                      const EvaluationOptions& options);

/// {"layers": [{"block", "heads": [{"head", "eigenvalues", "effective_rank", "above_1_percent"}]}]}, eight significant digits.
Json spectrum_json(const std::vector<LayerSpectrum>& layers);
/// A line per layer: effective rank of each head, and the means.
std::string spectrum_table(const std::vector<LayerSpectrum>& layers);
/// A chart as an SVG file: eigenvalues (log) by rank, a curve a layer, each the mean over heads. "" without layers.
std::string spectrum_svg(const std::vector<LayerSpectrum>& layers, const std::string& title);

}  // namespace flare
