#include "datasets/pde/batched_vorticity.h"

#if defined(FLARE_CUDA)
#include <cufft.h>

#include <algorithm>
#include <cstdio>
#include <numbers>

#include "core/graph.h"
#include "core/launch.cuh"
#include "core/parallel.h"
#include "datasets/pde/vorticity.h"
#include "datasets/pde/vorticity_waves.h"
#endif

namespace flare {

#if defined(FLARE_CUDA)

namespace {

constexpr int kThreads = 128;

void cufft_check(cufftResult status, const char* what) {
  if (status != CUFFT_SUCCESS) [[unlikely]]
    throw DeviceError(
        cat("vorticity: cuFFT failed ", what, ", error ", static_cast<int>(status), "; --device cpu does without it"));
}

/// Transforms of `batch` arrays [n,n]. They share memory that the caller lends them, so that it is the allocator's.
class Transform {
 public:
  Transform(int64_t n, cufftType type, int64_t batch, const Stream& stream) {
    cufft_check(cufftCreate(&plan_), "creating a plan");
    try {
      cufft_check(cufftSetAutoAllocation(plan_, 0), "preparing a plan");
      long long extents[2] = {n, n};
      size_t bytes = 0;
      cufft_check(cufftMakePlanMany64(plan_, 2, extents, nullptr, 1, 0, nullptr, 1, 0, type, batch, &bytes), "making a plan");
      cufft_check(cufftSetStream(plan_, native(stream)), "binding the stream");
      work_bytes = static_cast<int64_t>(bytes);
    } catch (...) {
      destroy();
      throw;
    }
  }
  ~Transform() { destroy(); }
  Transform(const Transform&) = delete;
  Transform& operator=(const Transform&) = delete;

  void lend(void* work) const { cufft_check(cufftSetWorkArea(plan_, work), "setting the work area"); }
  /// Complex to complex, e^{+2πi(k1 x + k2 y)}; leaves `from` as it is.
  void inverse(ComplexValue* from, ComplexValue* to) const {
    mark_launch("cufft");
    cufft_check(
        cufftExecZ2Z(plan_, reinterpret_cast<cufftDoubleComplex*>(from), reinterpret_cast<cufftDoubleComplex*>(to), CUFFT_INVERSE),
        "in an inverse transform");
  }
  /// Real to the half of the coefficients with k2 >= 0.
  void forward(double* from, ComplexValue* to) const {
    mark_launch("cufft");
    cufft_check(cufftExecD2Z(plan_, from, reinterpret_cast<cufftDoubleComplex*>(to)), "in a forward transform");
  }

  int64_t work_bytes = 0;

 private:
  void destroy() noexcept {
    if (cufftDestroy(plan_) != CUFFT_SUCCESS) std::fprintf(stderr, "vorticity: a cuFFT plan was not destroyed cleanly\n");
  }
  cufftHandle plan_ = 0;
};

// One thread a wave or a point; blockIdx.y is the flow.
__device__ __forceinline__ int64_t item() { return int64_t{blockIdx.x} * blockDim.x + threadIdx.x; }

/// 2 or 3 reads and 5 writes of 16 bytes a wave. Adjacent threads have adjacent k2; the mirrored waves go backwards.
template <bool is_corrector>
__global__ void __launch_bounds__(kThreads)
    advance_kernel(VorticityWaves waves, const ComplexValue* __restrict__ coefficients, ComplexValue* __restrict__ omega,
                   ComplexValue* __restrict__ slope, ComplexValue* __restrict__ spectra) {
  const int64_t p = item(), b = blockIdx.y, n = waves.n, count = waves.count();
  if (p >= count) return;
  waves.advance<is_corrector>(static_cast<int>(p), coefficients + b * n * (n / 2 + 1), omega + b * count, slope + b * count,
                              spectra + b * 2 * n * n);
}

/// The spectra of a state: those that a step starts from, or the vorticity itself.
template <bool is_vorticity>
__global__ void __launch_bounds__(kThreads)
    spectra_kernel(VorticityWaves waves, const ComplexValue* __restrict__ omega, ComplexValue* __restrict__ spectra) {
  const int64_t p = item(), b = blockIdx.y, n = waves.n, count = waves.count();
  if (p >= count) return;
  ComplexValue* const to = spectra + b * 2 * n * n;
  if constexpr (is_vorticity)
    waves.write_vorticity(static_cast<int>(p), omega[b * count + p], to);
  else
    waves.write_spectra(static_cast<int>(p), omega[b * count + p], to);
}

/// Reads 32 bytes a point, writes 8.
__global__ void __launch_bounds__(kThreads)
    product_kernel(int64_t points, const ComplexValue* __restrict__ fields, double* __restrict__ products) {
  const int64_t i = item(), b = blockIdx.y;
  if (i >= points) return;
  const ComplexValue* const velocity = fields + b * 2 * points;
  products[b * points + i] = VorticityWaves::convected(velocity[i], velocity[points + i]);
}

__global__ void __launch_bounds__(kThreads)
    pick_kernel(int64_t n, int64_t stride, const ComplexValue* __restrict__ fields, double* __restrict__ picked) {
  const int64_t i = item(), b = blockIdx.y, side = n / stride;
  if (i >= side * side) return;
  picked[b * side * side + i] = fields[b * 2 * n * n + i / side * stride * n + i % side * stride].re;
}

Tensor cleared(int64_t n_values) { return Tensor::zeros({n_values}, DType::f64, Device::cuda); }
ComplexValue* complex_data(const Tensor& t) { return reinterpret_cast<ComplexValue*>(t.data<double>()); }

}  // namespace

struct BatchedVorticity::Impl {
  const int64_t n, batch;
  const VorticityWaves waves;
  Stream& stream;
  const Transform inverse, forward;
  const Tensor work;                                                   // of whichever transform runs
  const Tensor omega, slope, spectra, fields, products, coefficients;  // vorticity_waves.h, one behind another for all flows
  Graph graph;                                                         // of a step

  Impl(int64_t n_, int64_t batch_, double viscosity, double dt)
      : n(n_),
        batch(batch_),
        waves{static_cast<int>(n), static_cast<int>(vorticity_cut(n)),
              0.5 * dt * viscosity * 4 * std::numbers::pi * std::numbers::pi, dt},
        stream(compute_stream(Device::cuda)),
        inverse(n, CUFFT_Z2Z, 2 * batch, stream),
        forward(n, CUFFT_D2Z, batch, stream),
        work(cleared(std::max(inverse.work_bytes, forward.work_bytes) / 8 + 1)),
        omega(cleared(2 * batch * waves.count())),
        slope(cleared(omega.numel())),
        spectra(cleared(2 * 2 * batch * n * n)),
        fields(cleared(spectra.numel())),
        products(cleared(batch * n * n)),
        coefficients(cleared(2 * batch * n * (n / 2 + 1))) {
    inverse.lend(work.raw());
    forward.lend(work.raw());
  }

  LaunchShape shape(int64_t items) const {
    LaunchShape s = cover(items, kThreads);
    s.grid.y = static_cast<unsigned>(batch);
    return s;
  }

  template <bool is_corrector> void half_step() const {
    inverse.inverse(complex_data(spectra), complex_data(fields));
    launch("vorticity product", product_kernel, shape(n * n), stream, n * n, complex_data(fields), products.data<double>());
    forward.forward(products.data<double>(), complex_data(coefficients));
    launch("vorticity advance", advance_kernel<is_corrector>, shape(waves.count()), stream, waves, complex_data(coefficients),
           complex_data(omega), complex_data(slope), complex_data(spectra));
  }
  void step() const {
    half_step<false>();
    half_step<true>();
  }
};

BatchedVorticity::BatchedVorticity(int64_t n, int64_t batch, double viscosity, double dt) {
  check<ConfigError>(n >= 8 && n <= 16384 && n % 2 == 0, "vorticity: a grid of ", n,
                     " points a side; it must be even and from 8 to 16384");
  check<ConfigError>(batch >= 1 && batch <= 65535, "vorticity: a batch of ", batch, " flows; it must be 1 to 65535");
  check<ConfigError>(viscosity >= 0 && dt > 0, "vorticity: needs viscosity >= 0 and dt > 0, got ", viscosity, " and ", dt);
  impl_ = std::make_unique<Impl>(n, batch, viscosity, dt);
}
BatchedVorticity::~BatchedVorticity() = default;

void BatchedVorticity::draw(const std::vector<Rng>& rngs) {
  const Impl& s = *impl_;
  check(static_cast<int64_t>(rngs.size()) <= s.batch, "vorticity: ", rngs.size(), " fields for a batch of ", s.batch);
  const Tensor start = Tensor::zeros(s.omega.shape(), DType::f64);
  parallel_for(static_cast<int64_t>(rngs.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      Rng rng = rngs[static_cast<size_t>(b)];
      ComplexValue* const omega = complex_data(start) + b * s.waves.count();
      draw_vorticity(rng, s.waves.cut, [&](int64_t k1, int64_t k2, double re, double im) {
        s.waves.set(static_cast<int>(k1), static_cast<int>(k2), {re, im}, omega);
      });
    }
  });
  copy(start, s.omega);
}

void BatchedVorticity::step(int64_t n_steps) {
  Impl& s = *impl_;
  launch("vorticity spectra", spectra_kernel<false>, s.shape(s.waves.count()), s.stream, s.waves, complex_data(s.omega),
         complex_data(s.spectra));
  for (int64_t i = 0; i < n_steps; ++i) {
    if (s.graph) {
      s.graph.replay();
      continue;
    }
    s.step();
    if (!sync_each_launch()) s.graph.capture([&] { s.step(); });
  }
  s.stream.synchronize();
}

Tensor BatchedVorticity::vorticity(int64_t stride) {
  const Impl& s = *impl_;
  check(stride >= 1 && s.n % stride == 0, "vorticity: stride ", stride, " does not divide ", s.n);
  const int64_t side = s.n / stride;
  launch("vorticity spectra", spectra_kernel<true>, s.shape(s.waves.count()), s.stream, s.waves, complex_data(s.omega),
         complex_data(s.spectra));
  s.inverse.inverse(complex_data(s.spectra), complex_data(s.fields));
  const Tensor picked = Tensor::empty({s.batch, side, side}, DType::f64, Device::cuda);
  launch("vorticity pick", pick_kernel, s.shape(side * side), s.stream, s.n, stride, complex_data(s.fields), picked.data<double>());
  return to_device(picked, Device::cpu);
}

std::string current_gpu() {
  compute_stream(Device::cuda);
  int index = 0;
  cuda_check(cudaGetDevice(&index), "cudaGetDevice");
  return cuda_info(index).name;
}

#else

struct BatchedVorticity::Impl {};
BatchedVorticity::BatchedVorticity(int64_t, int64_t, double, double) { select_cuda(0); }  // which throws
BatchedVorticity::~BatchedVorticity() = default;
void BatchedVorticity::draw(const std::vector<Rng>&) {}
void BatchedVorticity::step(int64_t) {}
Tensor BatchedVorticity::vorticity(int64_t) { return {}; }
std::string current_gpu() {
  select_cuda(0);
  return {};
}

#endif

}  // namespace flare
