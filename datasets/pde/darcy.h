#pragma once
#include <cstdint>
#include <string>

#include "datasets/prepared.h"
#include "datasets/registry.h"

namespace flare {

/// darcy-gen: the Darcy benchmark of Li et al. (arXiv 2010.08895) made from scratch. The coefficient is `high` where a Gaussian
/// field with covariance (-Δ + 9)^-2 is at least 0 and `low` elsewhere; u solves -∇·(a ∇u) = 1, u = 0 on the boundary, on
/// `resolution`² nodes, of which every `stride`-th is kept. In contrast to the published files the field is evaluated at the nodes
/// themselves, where their authors interpolate a by splines from cell centres to nodes and u back: so a has two values
/// everywhere and u is 0 on the boundary, and errors on one set say nothing about the other.
struct DarcyOptions {
  uint64_t seed = 0;
  int64_t train = 1000, val = 100, test = 200;
  int64_t resolution = 421, stride = 5;
  int64_t low = 3, high = 12;
};

/// Coefficient and solution of one sample on all nodes, f64 [resolution,resolution]. A sample depends on the seed, the split and
/// its index in it alone.
struct DarcySample {
  Tensor a, u;
};
/// `split`: 0 train, 1 val, 2 test.
DarcySample make_darcy_sample(const DarcyOptions& options, int64_t split, int64_t index);

/// Writes a prepared folder: x = (x, y, a) and y = u at (⌈resolution/stride⌉)² points. NumericError if a solution's residual
/// exceeds 1e-8.
void generate_darcy(const DarcyOptions& options, const std::string& out_dir);

/// Imports piececonst_r421_N1024_smooth1.mat and _smooth2.mat (MATLAB v5 or v7.3; `coeff`, `sol` [n,421,421]), every fifth node:
/// train = the first 1000 samples of the first file, test = the first 200 of the second, val = the next 100 of the second, which no
/// published split uses. Or darcy_16_32.npz (16 x 16; train 900 of its 1000, val the other 100, test 50), named darcy-16.
void import_darcy(const std::string& source_dir, const std::string& out_dir);

}  // namespace flare
