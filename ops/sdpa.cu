#include "ops/sdpa.h"

#include <memory>

#include "autograd/op.h"
#include "ops/cast.h"
#include "ops/kernels/attention.h"
#include "ops/kernels/sdpa_backward.h"
#include "ops/matmul.h"
#include "ops/pointwise.h"
#include "ops/shaping.h"
#include "ops/softmax.h"
#if defined(FLARE_CUDA)
#include "core/log.h"
#include "ops/kernels/sdpa_backward.cuh"
#include "ops/kernels/sdpa_fast.h"
#endif

namespace flare {
namespace {

struct SdpaAttrs {
  double scale = 1, dropout_p = 0;
  uint64_t site = 0;
  std::shared_ptr<Tensor> rest = {};  // filled by the forward on the matrix units for its backward (sdpa_fast.h), if given
};

/// The extents of one call, after every check.
struct Extents {
  int64_t B, H, n_query, n_key, D;
  bool shared_query;
};
Extents extents_of(const char* who, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mask) {
  check(k.ndim() == 4 && v.shape() == k.shape(), who, ": k ", k.shape(), " and v ", v.shape(), " must be equal [B,H,Nk,D]");
  check(q.ndim() == 3 || q.ndim() == 4, who, ": q ", q.shape(), " must be [B,H,Nq,D] or [H,Nq,D]");
  const Extents e{k.size(0), k.size(1), q.size(-2), k.size(2), k.size(3), q.ndim() == 3 || (q.size(0) == 1 && k.size(0) != 1)};
  check(e.shared_query || q.size(0) == e.B, who, ": q ", q.shape(), " and k ", k.shape(), " disagree on B");
  check(q.size(-3) == e.H && q.size(-1) == e.D, who, ": q ", q.shape(), " and k ", k.shape(), " disagree on H or D");
  check(e.n_query >= 1 && e.n_key >= 1 && e.D >= 1, who, ": empty rows in q ", q.shape(), " or k ", k.shape());
  check(q.dtype() == k.dtype() && v.dtype() == k.dtype(), who, ": dtypes ", q.dtype(), ", ", k.dtype(), " and ", v.dtype(),
        " differ");
  check(is_float(k.dtype()), who, ": needs a floating dtype, got ", k.dtype());
  check(k.device() == Device::cpu || e.D <= 128, who, ": head width ", e.D, " is more than the 128 that the CUDA kernels take");
  if (mask)
    check(mask.dtype() == DType::u8 && mask.shape() == Shape{e.B, e.n_key}, who, ": key_mask ", mask.shape(), " ", mask.dtype(),
          " must be u8 [", e.B, ",", e.n_key, "]");
  return e;
}
const uint8_t* mask_data(const Tensor& mask) { return mask ? mask.data<uint8_t>() : nullptr; }

/// Backward of Sdpa: (q, k, v, mask, rng, out, lse, g) -> dq, dk, dv.
struct SdpaBackward {
  static constexpr const char* name = "sdpa_backward";
  using Attrs = SdpaAttrs;
  static constexpr bool takes_strided = true;
  static constexpr const char* not_differentiable = kFirstOrderOnly;
  static OutSpecs infer(Inputs in, const Attrs& a) {
    const Extents e = extents_of(name, in[0], in[1], in[2], in[3]);
    const Shape out{e.B, e.H, e.n_query, e.D};
    check(in[5].shape() == out && in[7].shape() == out && in[6].shape() == out.without(3), name, ": out ", in[5].shape(), ", lse ",
          in[6].shape(), " and g ", in[7].shape(), " must be [B,H,Nq,D], [B,H,Nq] and [B,H,Nq,D] of ", out);
    const DType t = in[1].dtype();
    check(in[5].dtype() == t && in[7].dtype() == t && in[6].dtype() == param_dtype(t), name, ": out, lse or g has the wrong dtype");
    attention_dropout(name, a.dropout_p, in[4], a.site, e.n_query, e.n_key);
    return {{in[0].shape(), t}, {in[1].shape(), t}, {in[2].shape(), t}};
  }
  template <class T> static SdpaGradArgs<T> arguments(std::vector<Tensor>& in, Outputs out, const Attrs& a) {
    const Extents e = extents_of(name, in[0], in[1], in[2], in[3]);
    for (size_t i = 0; i < in.size(); ++i)
      if (in[i]) in[i] = i == 3 || i == 4 || i == 6 ? contiguous(in[i]) : with_contiguous_rows(in[i]);
    SdpaGradArgs<T> g;
    g.B = e.B, g.H = e.H, g.n_query = e.n_query, g.n_key = e.n_key, g.D = e.D, g.scale = a.scale;
    g.query = rows_bhnd<const T>(in[0]), g.key = rows_bhnd<const T>(in[1]), g.value = rows_bhnd<const T>(in[2]);
    g.out = rows_bhnd<const T>(in[5]), g.grad = rows_bhnd<const T>(in[7]);
    g.lse = in[6].data<acc_t<T>>();
    g.key_mask = mask_data(in[3]);
    g.dropout = attention_dropout(name, a.dropout_p, in[4], a.site, e.n_query, e.n_key);
    g.shared_query = e.shared_query;
    g.dq = out[0].data<T>(), g.dk = out[1].data<T>(), g.dv = out[2].data<T>();
    return g;
  }
  static void forward_cpu(Inputs in, Outputs out, const Attrs& a) {
    dispatch_float(in[1].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      std::vector<Tensor> packed(in.begin(), in.end());
      sdpa_backward_cpu<T>(arguments<T>(packed, out, a));
    });
  }
#if defined(FLARE_CUDA)
  template <class T> static void run_cuda(const SdpaGradArgs<T>& g, Stream& stream) {
    const Tensor delta = Tensor::empty(Shape{g.B, g.H, g.n_query}, DType::f32, Device::cuda);
    launch("sdpa delta", row_dots_kernel<T>, cover(delta.numel()), stream, device_rows(g.grad, g.D), device_rows(g.out, g.D),
           delta.data<float>(), g.B, g.H, g.n_query, static_cast<int>(g.D), nullptr);
    SdpaGradKernelArgs<T> k{device_rows(g.query, g.D),
                            device_rows(g.key, g.D),
                            device_rows(g.value, g.D),
                            device_rows(g.grad, g.D),
                            g.lse,
                            delta.data<float>(),
                            g.key_mask,
                            g.n_query,
                            g.n_key,
                            static_cast<int>(g.D),
                            static_cast<float>(g.scale),
                            g.dropout,
                            {}};
    dispatch_width(name, g.D, [&](auto width) {
      constexpr int DP = decltype(width)::value, R = DP <= 16 ? 2 : 1;
      k.plan = make_plan(g.B, g.H, g.n_query, g.n_key, R, true);
      const Tensor dq = Tensor::empty(Shape{g.B * g.H, k.plan.n_chunks, g.n_query, g.D}, DType::f32, Device::cuda);
      launch("sdpa dq", sdpa_dq_kernel<T, DP, R>, k.plan.shape(g.B), stream, k, dq.data<float>());
      sum_parts(dq, g.dq, g.B, g.H, k.plan.n_chunks, g.n_query * g.D, 1.0f, g.shared_query, stream);
      k.plan = make_plan(g.B, g.H, g.n_key, g.n_query, 1, true);
      const Tensor dk = Tensor::empty(Shape{g.B * g.H, k.plan.n_chunks, g.n_key, g.D}, DType::f32, Device::cuda);
      const Tensor dv = Tensor::empty(dk.shape(), DType::f32, Device::cuda);
      launch("sdpa dk, dv", sdpa_dkv_kernel<T, DP>, k.plan.shape(g.B), stream, k, dk.data<float>(), dv.data<float>());
      sum_parts(dk, g.dk, g.B, g.H, k.plan.n_chunks, g.n_key * g.D, 1.0f, false, stream);
      sum_parts(dv, g.dv, g.B, g.H, k.plan.n_chunks, g.n_key * g.D, 1.0f, false, stream);
    });
  }
  static void forward_cuda(Inputs in, Outputs out, const Attrs& a, Stream& stream) {
    dispatch_float_cuda(in[1].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      std::vector<Tensor> packed(in.begin(), in.end());
      const SdpaGradArgs<T> g = arguments<T>(packed, out, a);
      const T* rest = a.rest && *a.rest ? a.rest->data<T>() : nullptr;
      if (!sdpa_backward_fast<T>(g, rest, stream)) run_cuda<T>(g, stream);
    });
  }
#endif
  static std::vector<Sample> samples() {
    // The statistics are free inputs here: the formulas hold for any lse and out. Sizes span several tiles and chunks.
    const auto sample = [](const char* label, const Shape& q, const Shape& kv, bool masked, double p) {
      const InputSpec none{.kind = InputSpec::absent, .shape = {}}, mask{.kind = InputSpec::mask, .shape = {kv[0], kv[2]}};
      const InputSpec rng{.kind = InputSpec::values, .shape = {2}, .fixed = {3, 5}};
      const Shape out{kv[0], kv[1], q[-2], q[-1]};
      const InputSpec lse{.kind = InputSpec::param, .shape = {kv[0], kv[1], q[-2]}, .lo = 3, .hi = 5};
      return Sample{label,
                    {{.shape = q},
                     {.shape = kv},
                     {.shape = kv},
                     masked ? mask : none,
                     p > 0 ? rng : none,
                     {.shape = out},
                     lse,
                     {.shape = out}},
                    Attrs{.scale = 0.5, .dropout_p = p, .site = 2}};
    };
    return {sample("mask", {2, 2, 21, 8}, {2, 2, 37, 8}, true, 0),
            sample("dropout", {2, 2, 21, 8}, {2, 2, 37, 8}, false, 0.25),
            sample("width 16", {2, 2, 300, 16}, {2, 2, 290, 16}, true, 0),
            sample("shared query", {2, 5, 4}, {3, 2, 1100, 4}, true, 0),
            sample("width 64", {1, 2, 70, 64}, {1, 2, 45, 64}, true, 0),
            sample("many heads, width 48", {2, 64, 150, 48}, {2, 64, 140, 48}, false, 0),  // enough blocks for the Hopper kernels
            sample("width 100", {1, 1, 1030, 100}, {1, 1, 45, 100}, true, 0.5)};
  }
};
FLARE_REGISTER_OP(SdpaBackward);

/// (q, k, v, mask, rng) -> out, lse. See sdpa.h.
struct Sdpa {
  static constexpr const char* name = "sdpa";
  using Attrs = SdpaAttrs;
  static constexpr bool takes_strided = true;
  static OutSpecs infer(Inputs in, const Attrs& a) {
    const Extents e = extents_of(name, in[0], in[1], in[2], in[3]);
    attention_dropout(name, a.dropout_p, in[4], a.site, e.n_query, e.n_key);
    return {{{e.B, e.H, e.n_query, e.D}, in[1].dtype()}, {{e.B, e.H, e.n_query}, param_dtype(in[1].dtype())}};
  }
  template <class T> static AttendArgs<T, T> arguments(std::vector<Tensor>& in, Outputs out, const Attrs& a) {
    const Extents e = extents_of(name, in[0], in[1], in[2], in[3]);
    for (size_t i = 0; i < 3; ++i) in[i] = with_contiguous_rows(in[i]);
    for (size_t i = 3; i < 5; ++i)
      if (in[i]) in[i] = contiguous(in[i]);
    AttendArgs<T, T> g;
    g.B = e.B, g.H = e.H, g.n_query = e.n_query, g.n_key = e.n_key, g.D = e.D, g.scale = a.scale;
    g.query = rows_bhnd<const T>(in[0]), g.key = rows_bhnd<const T>(in[1]), g.value = rows_bhnd<const T>(in[2]);
    g.out = {out[0].data<T>(), e.H * e.n_query * e.D, e.n_query * e.D, e.D};
    g.lse = out[1].data<acc_t<T>>();
    g.key_mask = mask_data(in[3]);
    g.dropout = attention_dropout(name, a.dropout_p, in[4], a.site, e.n_query, e.n_key);
    return g;
  }
  static void forward_cpu(Inputs in, Outputs out, const Attrs& a) {
    dispatch_float(in[1].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      std::vector<Tensor> packed(in.begin(), in.end());
      attend_cpu<T, T>(arguments<T>(packed, out, a));
    });
  }
#if defined(FLARE_CUDA)
  static void forward_cuda(Inputs in, Outputs out, const Attrs& a, Stream& stream) {
    dispatch_float_cuda(in[1].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      std::vector<Tensor> packed(in.begin(), in.end());
      const AttendArgs<T, T> g = arguments<T>(packed, out, a);
      Tensor rest;
      if (a.rest) rest = Tensor::empty(Shape{g.B, g.H, g.n_query, sizeof(T) == 2 ? g.D : 2}, dtype_of<T>, Device::cuda);
      if (sdpa_forward_fast<T>(g, rest ? rest.data<T>() : nullptr, stream)) {
        if (a.rest) *a.rest = rest;
      } else {
        log_once("sdpa plain path", "sdpa: ", g.dropout.on() ? "attention dropout" : "this GPU", " takes the plain CUDA kernels");
        attend_cuda<T, T>(g, stream);
      }
    });
  }
#endif
  static Grads vjp(const Saved& s, const Tensor& gy, const Attrs& a) {
    std::vector<Tensor> g = apply_all<SdpaBackward>({s.in(0), s.in(1), s.in(2), s.in(3), s.in(4), s.out(0), s.out(1), gy}, a);
    return {g[0], g[1], g[2], {}, {}};
  }
  /// The composition, in the precision of the statistics. Rows without a key are not its business: no sample has one.
  static Tensor reference(Inputs in, const Attrs& a) {
    const Extents e = extents_of(name, in[0], in[1], in[2], in[3]);
    const DType wide = param_dtype(in[1].dtype());
    Tensor q = cast(in[0], wide);
    if (e.shared_query) q = expand(reshape(q, {1, e.H, e.n_query, e.D}), {e.B, e.H, e.n_query, e.D});
    Tensor s = affine(matmul(q, cast(in[1], wide), false, true), a.scale, 0);
    if (in[3]) s = s + affine(cast_to(in[3], wide).viewed_as({e.B, 1, 1, e.n_key}), 1e30, -1e30);
    Tensor p = softmax(s, -1);
    if (a.dropout_p > 0) p = p * attention_dropout_factors(a.dropout_p, in[4], a.site, {e.B, e.H, e.n_query, e.n_key}, 0, wide);
    return cast(matmul(p, cast(in[2], wide)), in[1].dtype());
  }
  static std::vector<Sample> samples() {
    const InputSpec none{.kind = InputSpec::absent, .shape = {}};
    const auto values = [](Shape shape, bool differentiable = true, double range = 1) {
      return InputSpec{.shape = shape, .lo = -range, .hi = range, .differentiable = differentiable};
    };
    const InputSpec rng{.kind = InputSpec::values, .shape = {2}, .fixed = {11, 7}};
    const Shape q{2, 2, 5, 4}, k{2, 2, 9, 4}, q16{2, 3, 70, 16}, k16{2, 3, 131, 16};
    return {
        {"plain", {values(q), values(k), values(k), none, none}, Attrs{.scale = 0.5}},
        {"key mask", {values(q), values(k), values(k), {.kind = InputSpec::mask, .shape = {2, 9}}, none}, Attrs{}},
        {"query shared over the batch",
         {values({2, 5, 4}), values(k), values(k), {.kind = InputSpec::mask, .shape = {2, 9}}, none},
         Attrs{}},
        {"query with batch 1", {values({1, 2, 5, 4}), values(k), values(k), none, none}, Attrs{}},
        // q and k change nothing with one key: their gradients are rounding around zero.
        {"one query, one key",
         {values({1, 2, 1, 3}, false), values({1, 2, 1, 3}, false), values({1, 2, 1, 3}), none, none},
         Attrs{}},
        {"strided",
         {{.shape = q, .transposed = true}, {.shape = k, .transposed = true}, {.shape = k, .transposed = true}, none, none},
         Attrs{.scale = 0.5}},
        {"dropout", {values(q), values(k), values(k), none, rng}, Attrs{.scale = 0.5, .dropout_p = 0.3, .site = 4}},
        {"width 16",
         {values(q16, false), values(k16, false), values(k16, false), {.kind = InputSpec::mask, .shape = {2, 131}}, none},
         Attrs{.scale = 0.25}},
        {"width 24", {values({1, 1, 6, 24}), values({1, 1, 7, 24}), values({1, 1, 7, 24}), none, none}, Attrs{.scale = 0.2}},
        {"width 32", {values({1, 1, 4, 32}), values({1, 1, 5, 32}), values({1, 1, 5, 32}), none, none}, Attrs{.scale = 0.2}},
        {"width 64", {values({1, 1, 3, 64}), values({1, 1, 4, 64}), values({1, 1, 4, 64}), none, none}, Attrs{.scale = 0.125}},
        {"width 100", {values({1, 1, 2, 100}), values({1, 1, 3, 100}), values({1, 1, 3, 100}), none, none}, Attrs{.scale = 0.1}},
        {"many heads, width 48",
         {values({2, 64, 70, 48}, false), values({2, 64, 150, 48}, false), values({2, 64, 150, 48}, false), none, none},
         Attrs{.scale = 0.14}},
        {"many keys, few queries",
         {values({1, 2, 3, 8}), values({1, 2, 2500, 8}, false), values({1, 2, 2500, 8}, false), none, none},
         Attrs{.scale = 0.35}},
        // Scores up to 80: their rounding in f32 or bf16 shifts every weight by that many parts.
        {"large scores",
         {values({1, 2, 6, 4}, true, 4), values({1, 2, 20, 4}, true, 5), values({1, 2, 20, 4}), none, none},
         Attrs{},
         5e-5,
         3e-2,
         1e-6},
    };
  }
};
FLARE_REGISTER_OP(Sdpa);

}  // namespace

SdpaResult sdpa(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& key_mask, double scale, double dropout_p,
                const Tensor& rng, uint64_t site) {
  check(q && k && v, "sdpa: q, k and v must be given");
  const std::vector<Tensor> out =
      apply_all<Sdpa>({q.dtype() == k.dtype() ? q : cast(q, k.dtype()), k, v, key_mask, dropout_p > 0 ? rng : Tensor()},
                      Sdpa::Attrs{scale, dropout_p, site, grad_enabled() ? std::make_shared<Tensor>() : nullptr});
  return {out[0], out[1]};
}

}  // namespace flare
