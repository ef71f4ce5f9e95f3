#include "ops/mixer_ladder.h"

#include <algorithm>

#include "autograd/node.h"
#include "ops/flare_mixer.h"
#include "ops/kernels/attention.h"
#if defined(FLARE_CUDA)
#include "ops/kernels/ladder_mma.cuh"
#include "ops/kernels/ladder_naive.cuh"
#include "ops/kernels/ladder_tiled.cuh"
#endif

namespace flare {
namespace {

void check_arguments(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mask) {
  constexpr const char* who = "mixer_ladder";
  check(k.ndim() == 3 && v.shape() == k.shape(), who, ": k ", k.shape(), " and v ", v.shape(), " must be equal [B,N,C]");
  check(q.ndim() == 3 || (q.ndim() == 4 && q.size(0) == k.size(0)), who, ": q ", q.shape(), " must be [H,M,D] or [", k.size(0),
        ",H,M,D]");
  check(q.size(-3) * q.size(-1) == k.size(2), who, ": q ", q.shape(), " and k ", k.shape(), " disagree on C");
  const int64_t D = q.size(-1);
  check(D == 8 || D == 16 || D == 32 || D == 64, who, ": head width ", D, " is not 8, 16, 32 or 64; use rung final");
  check(k.size(0) >= 1 && k.size(1) >= 1 && q.size(-2) >= 1, who, ": empty rows in q ", q.shape(), " or k ", k.shape());
  check(v.dtype() == k.dtype(), who, ": k ", k.dtype(), " and v ", v.dtype(), " must share a dtype");
  if (mask)
    check(mask.dtype() == DType::u8 && mask.shape() == Shape{k.size(0), k.size(1)}, who, ": mask ", mask.shape(), " must be u8 [",
          k.size(0), ",", k.size(1), "]");
}

#if defined(FLARE_CUDA)

/// Encode, then decode, by attention(LadderArgs).
template <class T, class F>
void encode_decode(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mask, double scale, const Tensor& y,
                   const F& attention) {
  const int64_t B = k.size(0), N = k.size(1), H = q.size(-3), M = q.size(-2), D = q.size(-1);
  const Tensor z = Tensor::empty({B, H, M, D}, DType::f32, Device::cuda);
  const uint8_t* live = mask ? mask.data<uint8_t>() : nullptr;
  const Rows<float> latents{z.data<float>(), H * M * D, M * D, D};
  const auto q_rows = device_rows(Rows<const float>{q.data<float>(), q.ndim() == 4 ? H * M * D : 0, M * D, D}, D);
  const auto k_rows = device_rows(rows_bnc<const T>(k, D), D), v_rows = device_rows(rows_bnc<const T>(v, D), D);
  const auto factor = static_cast<float>(scale * 1.4426950408889634);
  attention(LadderArgs<float, T>{q_rows, k_rows, v_rows, device_rows(latents, D), live, nullptr, B, H, M, N, factor});
  const Rows<const float> z_rows{latents.data, latents.batch, latents.head, latents.row};
  const auto y_rows = device_rows(rows_bnc<T>(y, D), D);
  attention(LadderArgs<T, float>{k_rows, q_rows, device_rows(z_rows, D), y_rows, nullptr, live, B, H, N, M, factor});
}

/// About eight blocks for each of 132 multiprocessors, whatever the device, so that sums are cut alike everywhere.
int64_t wanted_chunks(int64_t n_blocks, int64_t n_key) {
  return std::clamp<int64_t>(132 * 8 / std::max<int64_t>(n_blocks, 1), 1, (n_key + 255) / 256);
}

template <class T, int D>
void run_rung(const std::string& rung, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mask, double scale,
              const Tensor& y, Stream& stream) {
  encode_decode<T>(q, k, v, mask, scale, y, [&]<class Tq, class Tk>(const LadderArgs<Tq, Tk>& a) {
    using Unit = std::conditional_t<std::is_same_v<T, bf16>, Bf16Unit<D>, Tf32Unit<D>>;
    if (rung == "naive") return ladder_naive<Tq, Tk, D>(a, stream);
    if (rung == "tiled") return ladder_tiled<Tq, Tk, D>(a, stream);
    const int64_t n_blocks = a.B * a.H * ((a.n_query + kMmaQueries - 1) / kMmaQueries);
    ladder_mma<Unit, Tq, Tk, D>("ladder tensor-core", a, rung == "split-token" ? wanted_chunks(n_blocks, a.n_key) : 1, stream);
  });
}

Tensor run_cuda(const std::string& rung, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mask, double scale) {
  const Tensor queries = contiguous(cast_to(q, DType::f32)), keys = with_contiguous_rows(k), values = with_contiguous_rows(v);
  const Tensor live = mask ? contiguous(mask) : Tensor(), y = Tensor::empty(k.shape(), k.dtype(), Device::cuda);
  Stream& stream = compute_stream(Device::cuda);
  dispatch_float_cuda(k.dtype(), "mixer_ladder", [&](auto tag) {
    using T = typename decltype(tag)::type;
    switch (q.size(-1)) {
      case 8: return run_rung<T, 8>(rung, queries, keys, values, live, scale, y, stream);
      case 16: return run_rung<T, 16>(rung, queries, keys, values, live, scale, y, stream);
      case 32: return run_rung<T, 32>(rung, queries, keys, values, live, scale, y, stream);
      default: return run_rung<T, 64>(rung, queries, keys, values, live, scale, y, stream);
    }
  });
  return y;
}

#else

Tensor run_cuda(const std::string& rung, const Tensor&, const Tensor&, const Tensor&, const Tensor&, double) {
  throw DeviceError(cat("mixer_ladder: rung ", rung, " is a CUDA kernel, and this program was built without CUDA; use final"));
}

#endif

}  // namespace

const std::vector<std::string>& mixer_rungs() {
  static const std::vector<std::string> names = {"naive", "tiled", "tensor-core", "split-token", "final"};
  return names;
}

Tensor mixer_ladder(const std::string& rung, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mask, double scale) {
  const std::vector<std::string>& names = mixer_rungs();
  check<ConfigError>(std::find(names.begin(), names.end(), rung) != names.end(), "mixer_ladder: no rung \"", rung,
                     "\"; there are naive, tiled, tensor-core, split-token and final");
  check(q && k && v, "mixer_ladder: q, k and v must be given");
  const NoGrad no_grad;
  if (rung == "final") return flare_mixer(q, k, v, mask, scale);
  check_arguments(q, k, v, mask);
  check<DeviceError>(k.device() == Device::cuda, "mixer_ladder: rung ", rung, " is a CUDA kernel; use final on the CPU");
  return run_cuda(rung, q, k, v, mask, scale);
}

}  // namespace flare
