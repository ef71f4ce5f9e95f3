#include "ops/flare_mixer.h"

#include "autograd/op.h"
#include "core/gemm.h"
#include "core/log.h"
#include "ops/cast.h"
#include "ops/kernels/flare_mixer.h"
#include "ops/kernels/flare_mixer_cpu.h"
#include "ops/matmul.h"
#include "ops/pointwise.h"
#include "ops/shaping.h"
#include "ops/softmax.h"
#if defined(FLARE_CUDA)
#include "ops/kernels/flare_mixer.cuh"
#endif

namespace flare {
namespace {

struct MixerAttrs {
  double scale = 1, dropout_p = 0;
  uint64_t site = 0;
};

/// The extents of one call, after every check.
struct Extents {
  int64_t B, N, H, M, D;
  bool shared_q;
};
Extents extents_of(const char* who, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mask) {
  check(k.ndim() == 3 && v.shape() == k.shape(), who, ": k ", k.shape(), " and v ", v.shape(), " must be equal [B,N,C]");
  check(q.ndim() == 3 || q.ndim() == 4, who, ": q ", q.shape(), " must be [H,M,D] or [B,H,M,D]");
  const Extents e{k.size(0), k.size(1), q.size(-3), q.size(-2), q.size(-1), q.ndim() == 3};
  check(e.shared_q || q.size(0) == e.B, who, ": q ", q.shape(), " and k ", k.shape(), " disagree on B");
  check(e.H * e.D == k.size(2), who, ": q ", q.shape(), " and k ", k.shape(), " disagree on C (", e.H * e.D, " vs ", k.size(2),
        ")");
  check(e.N >= 1 && e.M >= 1 && e.D >= 1, who, ": empty rows in q ", q.shape(), " or k ", k.shape());
  check(is_float(k.dtype()) && v.dtype() == k.dtype(), who, ": k ", k.dtype(), " and v ", v.dtype(),
        " must share a floating dtype");
  check(q.dtype() == k.dtype() || q.dtype() == param_dtype(k.dtype()), who, ": q ", q.dtype(), " beside k ", k.dtype());
  check(k.device() == Device::cpu || e.D <= 128, who, ": head width ", e.D, " is more than the 128 that the CUDA kernels take");
  if (mask)
    check(mask.dtype() == DType::u8 && mask.shape() == Shape{e.B, e.N}, who, ": mask ", mask.shape(), " ", mask.dtype(),
          " must be u8 [", e.B, ",", e.N, "]");
  return e;
}
const uint8_t* mask_data(const Tensor& mask) { return mask ? mask.data<uint8_t>() : nullptr; }
/// Rows of a packed q or z, [H,M,D] or [B,H,M,D].
template <class T> Rows<T> latent_rows(T* data, const Extents& e, bool shared) {
  return {data, shared ? 0 : e.H * e.M * e.D, e.M * e.D, e.D};
}
template <class T> Rows<T> token_rows(T* data, const Extents& e) { return {data, e.N * e.H * e.D, e.D, e.H * e.D}; }

#if defined(FLARE_CUDA)
/// Whether the tensor-core kernels take these rows: whole 16-byte units, and strides whose multiples fit an int.
template <class T> bool in_units(const Rows<T>& r) {
  constexpr int64_t kUnit = 16 / static_cast<int64_t>(sizeof(T));
  return r.batch % kUnit == 0 && r.head % kUnit == 0 && r.row % kUnit == 0 && r.row < (int64_t{1} << 24) &&
         reinterpret_cast<uintptr_t>(r.data) % 16 == 0;
}
template <class T, class... R> bool fits_tensor_cores(int64_t B, int64_t N, int64_t D, const R&... rows) {
  const bool fits = D <= kMixerWidth && D % (16 / static_cast<int64_t>(sizeof(T))) == 0 && B <= 65535 && N <= (int64_t{1} << 30) &&
                    (in_units(rows) && ...);
  if (!fits)
    log_once("flare_mixer plain", "flare_mixer: head width ", D, " in ", dtype_of<T>,
             " takes the plain kernels; widths up to 64 whose rows are whole aligned 16-byte units are several times faster");
  return fits;
}
#endif

/// What rounding lse loses, for the tensor-core kernels in f32 (ones from all others); elsewhere a placeholder of one element.
Shape rest_shape(const Tensor& k, const Shape& lse) { return k.dtype() == DType::f32 ? lse : Shape{0}; }

/// Backward of FlareMixer: (q, k, v, mask, rng, y, z, lse_encode, lse_decode, g, rest_encode, rest_decode) -> dq, dk, dv.
struct FlareMixerBackward {
  static constexpr const char* name = "flare_mixer_backward";
  using Attrs = MixerAttrs;
  static constexpr bool takes_strided = true;
  static constexpr const char* not_differentiable = kFirstOrderOnly;
  static OutSpecs infer(Inputs in, const Attrs& a) {
    const Extents e = extents_of(name, in[0], in[1], in[2], in[3]);
    const DType t = in[1].dtype(), wide = param_dtype(t);
    check(in[5].shape() == in[1].shape() && in[9].shape() == in[1].shape(), name, ": y ", in[5].shape(), " and g ", in[9].shape(),
          " must be ", in[1].shape());
    check(in[6].shape() == Shape{e.B, e.H, e.M, e.D} && in[7].shape() == Shape{e.B, e.H, e.M} &&
              in[8].shape() == Shape{e.B, e.H, e.N},
          name, ": z ", in[6].shape(), ", lse ", in[7].shape(), " and ", in[8].shape(), " must be [B,H,M,D], [B,H,M] and [B,H,N]");
    check(in[5].dtype() == t && in[9].dtype() == t && in[6].dtype() == wide && in[7].dtype() == wide && in[8].dtype() == wide, name,
          ": y, g or the statistics have the wrong dtype");
    for (size_t i = 10; i < 12; ++i) {
      const Shape needed = rest_shape(in[1], in[i - 3].shape());
      check(in[i].dtype() == wide && (in[i].shape() == in[i - 3].shape() || in[i].shape() == needed), name, ": rest ",
            in[i].shape(), " ", in[i].dtype(), " must be ", wide, " ", needed);
    }
    attention_dropout(name, a.dropout_p, in[4], a.site, e.M, e.N);
    return {{in[0].shape(), in[0].dtype()}, {in[1].shape(), t}, {in[2].shape(), t}};
  }
  /// dq is a packed tensor of q's shape in the precision of the statistics; the caller converts it.
  template <class T> static MixerGradArgs<T> arguments(std::vector<Tensor>& in, Outputs out, const Tensor& dq, const Attrs& a) {
    using A = acc_t<T>;
    const Extents e = extents_of(name, in[0], in[1], in[2], in[3]);
    in[0] = contiguous(cast_to(in[0], dtype_of<A>));
    for (size_t i = 1; i < in.size(); ++i)
      if (in[i]) in[i] = i == 1 || i == 2 || i == 5 || i == 9 ? with_contiguous_rows(in[i]) : contiguous(in[i]);
    MixerGradArgs<T> g;
    g.B = e.B, g.H = e.H, g.M = e.M, g.N = e.N, g.D = e.D, g.scale = a.scale;
    g.q = latent_rows<const A>(in[0].data<A>(), e, e.shared_q);
    g.shared_q = e.shared_q;
    g.k = rows_bnc<const T>(in[1], e.D), g.v = rows_bnc<const T>(in[2], e.D);
    g.y = rows_bnc<const T>(in[5], e.D), g.g = rows_bnc<const T>(in[9], e.D);
    g.z = in[6].data<A>(), g.lse_encode = in[7].data<A>(), g.lse_decode = in[8].data<A>();
    g.rest_encode = in[10].data<A>(), g.rest_decode = in[11].data<A>();
    g.mask = mask_data(in[3]);
    g.dropout = attention_dropout(name, a.dropout_p, in[4], a.site, e.M, e.N);
    g.dq = dq.data<A>();
    g.dk = token_rows(out[1].data<T>(), e), g.dv = token_rows(out[2].data<T>(), e);
    return g;
  }
  /// out[0] itself, or a wider buffer where q is stored in bf16.
  static Tensor wide_dq(Outputs out) {
    const DType wide = param_dtype(out[0].dtype());
    return wide == out[0].dtype() ? out[0] : Tensor::empty(out[0].shape(), wide, out[0].device());
  }
  static void forward_cpu(Inputs in, Outputs out, const Attrs& a) {
    const Tensor dq = wide_dq(out);
    dispatch_float(in[1].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      std::vector<Tensor> packed(in.begin(), in.end());
      mixer_backward_cpu<T>(arguments<T>(packed, out, dq, a));
    });
    if (!dq.same_storage(out[0])) copy(dq, out[0]);
  }
#if defined(FLARE_CUDA)
  template <class T> static void run_cuda(const MixerGradArgs<T>& g, Stream& stream) {
    if (fits_tensor_cores<T>(g.B, g.N, g.D, g.k, g.v, g.y, g.g, g.dk, g.dv)) {
      if constexpr (std::is_same_v<T, bf16>)
        return mixer_backward<Math::bf16>(g, stream);
      else
        return tf32_enabled() ? mixer_backward<Math::tf32>(g, stream) : mixer_backward<Math::f32>(g, stream);
    }
    const Extents e{g.B, g.N, g.H, g.M, g.D, g.shared_q};
    const Tensor delta = Tensor::empty(Shape{g.B, g.H, g.N}, DType::f32, Device::cuda);
    const Tensor dz = Tensor::empty(Shape{g.B, g.H, g.M, g.D}, DType::f32, Device::cuda);
    launch("mixer delta", row_dots_kernel<T>, cover(delta.numel()), stream, device_rows(g.g, g.D), device_rows(g.y, g.D),
           delta.data<float>(), g.B, g.H, g.N, static_cast<int>(g.D), g.mask);
    MixerKernelArgs<T> k{device_rows(g.q, g.D),
                         device_rows(latent_rows<const float>(g.z, e, false), g.D),
                         device_rows(latent_rows<const float>(dz.data<float>(), e, false), g.D),
                         device_rows(g.k, g.D),
                         device_rows(g.v, g.D),
                         device_rows(g.g, g.D),
                         device_rows(g.dk, g.D),
                         device_rows(g.dv, g.D),
                         g.lse_encode,
                         g.lse_decode,
                         delta.data<float>(),
                         g.mask,
                         g.M,
                         g.N,
                         static_cast<int>(g.D),
                         static_cast<float>(g.scale),
                         g.dropout,
                         {}};
    dispatch_width(name, g.D, [&](auto width) {
      constexpr int DP = decltype(width)::value, R = DP <= 16 ? 2 : 1, kTokens = DP <= 8 ? 2 : 1;
      k.plan = make_plan(g.B, g.H, g.M, g.N, R, true);
      const Tensor part = Tensor::empty(Shape{g.B * g.H, k.plan.n_chunks, g.M, g.D}, DType::f32, Device::cuda);
      launch("mixer dz", mixer_dz_kernel<T, DP, R>, k.plan.shape(g.B), stream, k, part.data<float>());
      sum_parts(part, dz.data<float>(), g.B, g.H, k.plan.n_chunks, g.M * g.D, 1.0f, false, stream);
      // The same buffer and cut serve dq: its kernel starts after the sum above has read dz.
      launch("mixer dq", mixer_dq_kernel<T, DP, R>, k.plan.shape(g.B), stream, k, part.data<float>());
      sum_parts(part, g.dq, g.B, g.H, k.plan.n_chunks, g.M * g.D, 1.0f, g.shared_q, stream);
      k.plan = make_plan(g.B, g.H, g.N, g.M, kTokens, false);
      launch("mixer dk, dv", mixer_dkv_kernel<T, DP, kTokens>, k.plan.shape(g.B), stream, k);
    });
  }
  static void forward_cuda(Inputs in, Outputs out, const Attrs& a, Stream& stream) {
    const Tensor dq = wide_dq(out);
    dispatch_float_cuda(in[1].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      std::vector<Tensor> packed(in.begin(), in.end());
      run_cuda<T>(arguments<T>(packed, out, dq, a), stream);
    });
    if (!dq.same_storage(out[0])) copy(dq, out[0]);
  }
#endif
  static std::vector<Sample> samples() {
    // The statistics are free inputs here: the formulas hold for any lse, y and z. Sizes span several tiles and chunks.
    const auto sample = [](const char* label, const Shape& q, int64_t B, int64_t N, bool masked, double p) {
      const int64_t H = q[-3], M = q[-2], D = q[-1];
      const InputSpec none{.kind = InputSpec::absent, .shape = {}}, mask{.kind = InputSpec::mask, .shape = {B, N}};
      const InputSpec rng{.kind = InputSpec::values, .shape = {2}, .fixed = {3, 5}}, x{.shape = {B, N, H * D}};
      const InputSpec z{.kind = InputSpec::param, .shape = {B, H, M, D}},
          encode{.kind = InputSpec::param, .shape = {B, H, M}, .lo = 3, .hi = 5};
      const InputSpec decode{.kind = InputSpec::param, .shape = {B, H, N}, .lo = 3, .hi = 5};
      const InputSpec ones{.kind = InputSpec::param, .shape = {B, H, M}, .lo = 1, .hi = 1},
          more{.kind = InputSpec::param, .shape = {B, H, N}, .lo = 1, .hi = 1};
      return Sample{label,
                    {{.kind = InputSpec::param, .shape = q},
                     x,
                     x,
                     masked ? mask : none,
                     p > 0 ? rng : none,
                     x,
                     z,
                     encode,
                     decode,
                     x,
                     ones,
                     more},
                    Attrs{.scale = 0.5, .dropout_p = p, .site = 2}};
    };
    return {sample("mask", {2, 5, 8}, 2, 37, true, 0),
            sample("dropout", {2, 5, 8}, 2, 37, false, 0.25),
            sample("width 16", {2, 150, 16}, 2, 300, true, 0),
            sample("width 16, dropout", {2, 40, 16}, 2, 300, true, 0.25),
            sample("q per sample", {3, 2, 5, 4}, 3, 1100, true, 0),
            sample("width 24", {2, 33, 24}, 2, 310, true, 0),
            sample("width 32, many latents", {2, 257, 32}, 1, 300, false, 0),
            sample("width 64", {1, 70, 64}, 2, 45, true, 0),
            sample("more latents than a block takes", {1, 600, 16}, 1, 200, true, 0),
            sample("width 100", {1, 40, 100}, 1, 1030, true, 0.5)};
  }
};
FLARE_REGISTER_OP(FlareMixerBackward);

/// (q, k, v, mask, rng) -> y, z, lse_encode, lse_decode, rest_encode, rest_decode. See flare_mixer.h.
struct FlareMixer {
  static constexpr const char* name = "flare_mixer";
  using Attrs = MixerAttrs;
  static constexpr bool takes_strided = true;
  static OutSpecs infer(Inputs in, const Attrs& a) {
    const Extents e = extents_of(name, in[0], in[1], in[2], in[3]);
    const DType wide = param_dtype(in[1].dtype());
    attention_dropout(name, a.dropout_p, in[4], a.site, e.M, e.N);
    const Shape latents{e.B, e.H, e.M}, tokens{e.B, e.H, e.N};
    return {{in[1].shape(), in[1].dtype()},     {{e.B, e.H, e.M, e.D}, wide},     {latents, wide}, {tokens, wide},
            {rest_shape(in[1], latents), wide}, {rest_shape(in[1], tokens), wide}};
  }
  /// Encode, then decode: two attentions over the same scores. `attend(encode, decode)` gets both argument sets.
  template <class T, class F> static void run(Inputs in, Outputs out, const Attrs& a, const F& attend) {
    using A = acc_t<T>;
    const Extents e = extents_of(name, in[0], in[1], in[2], in[3]);
    const Tensor q = contiguous(cast_to(in[0], dtype_of<A>)), k = with_contiguous_rows(in[1]), v = with_contiguous_rows(in[2]);
    const Tensor mask = in[3] ? contiguous(in[3]) : Tensor(), rng = in[4] ? contiguous(in[4]) : Tensor();
    AttendArgs<A, T> encode;
    encode.B = e.B, encode.H = e.H, encode.n_query = e.M, encode.n_key = e.N, encode.D = e.D, encode.scale = a.scale;
    encode.query = latent_rows<const A>(q.data<A>(), e, e.shared_q);
    encode.key = rows_bnc<const T>(k, e.D), encode.value = rows_bnc<const T>(v, e.D);
    encode.out = latent_rows<A>(out[1].data<A>(), e, false);
    encode.lse = out[2].data<A>();
    encode.key_mask = mask_data(mask);
    encode.dropout = attention_dropout(name, a.dropout_p, rng, a.site, e.M, e.N);
    AttendArgs<T, A> decode;
    decode.B = e.B, decode.H = e.H, decode.n_query = e.N, decode.n_key = e.M, decode.D = e.D, decode.scale = a.scale;
    decode.query = encode.key;
    decode.key = encode.query;
    decode.value = latent_rows<const A>(out[1].data<A>(), e, false);
    decode.out = token_rows(out[0].data<T>(), e);
    decode.lse = out[3].data<A>();
    decode.query_mask = mask_data(mask);
    decode.dropout = encode.dropout, decode.dropout_transposed = true, decode.dropout_half = 1;
    attend(encode, decode);
  }
  static void forward_cpu(Inputs in, Outputs out, const Attrs& a) {
    fill(out[4], 1), fill(out[5], 1);
    dispatch_float(in[1].dtype(), name, [&](auto tag) {
      run<typename decltype(tag)::type>(in, out, a, [](const auto& encode, const auto& decode) {
        mixer_forward_cpu<typename decltype(tag)::type>(encode, decode);
      });
    });
  }
#if defined(FLARE_CUDA)
  static void forward_cuda(Inputs in, Outputs out, const Attrs& a, Stream& stream) {
    dispatch_float_cuda(in[1].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      run<T>(in, out, a, [&](const auto& encode, const auto& decode) {
        if (!fits_tensor_cores<T>(encode.B, encode.n_key, encode.D, encode.key, encode.value, decode.out)) {
          attend_cuda(encode, stream);
          attend_cuda(decode, stream);
          fill(out[4], 1), fill(out[5], 1);
          return;
        }
        MixerArgs<T> m;
        m.B = encode.B, m.H = encode.H, m.M = encode.n_query, m.N = encode.n_key, m.D = encode.D, m.scale = encode.scale;
        m.q = encode.query.data, m.q_batch = encode.query.batch, m.k = encode.key, m.v = encode.value, m.y = decode.out;
        m.z = encode.out.data, m.lse_encode = encode.lse, m.lse_decode = decode.lse, m.mask = encode.key_mask;
        m.dropout = encode.dropout;
        if constexpr (std::is_same_v<T, float>) m.rest_encode = out[4].data<float>(), m.rest_decode = out[5].data<float>();
        if constexpr (std::is_same_v<T, bf16>)
          mixer_forward<Math::bf16>(m, stream);
        else if (tf32_enabled())
          mixer_forward<Math::tf32>(m, stream);
        else
          mixer_forward<Math::f32>(m, stream);
      });
    });
  }
#endif
  static Grads vjp(const Saved& s, const Tensor& gy, const Attrs& a) {
    std::vector<Tensor> g = apply_all<FlareMixerBackward>(
        {s.in(0), s.in(1), s.in(2), s.in(3), s.in(4), s.out(0), s.out(1), s.out(2), s.out(3), gy, s.out(4), s.out(5)}, a);
    return {g[0], g[1], g[2], {}, {}};
  }
  /// The composition with explicit weight matrices, in the precision of the statistics.
  static Tensor reference(Inputs in, const Attrs& a) {
    const Extents e = extents_of(name, in[0], in[1], in[2], in[3]);
    const DType wide = param_dtype(in[1].dtype());
    const auto heads = [&](const Tensor& x) { return transpose(reshape(cast(x, wide), {e.B, e.N, e.H, e.D}), 1, 2); };
    Tensor q = cast(in[0], wide);
    if (e.shared_q) q = expand(reshape(q, {1, e.H, e.M, e.D}), {e.B, e.H, e.M, e.D});
    const Tensor scores = affine(matmul(q, heads(in[1]), false, true), a.scale, 0), mask = in[3] ? cast_to(in[3], wide) : Tensor();
    Tensor encode = softmax(mask ? scores + affine(mask.viewed_as({e.B, 1, 1, e.N}), 1e30, -1e30) : scores, 3);
    Tensor decode = softmax(scores, 2);
    if (a.dropout_p > 0) {
      encode = encode * attention_dropout_factors(a.dropout_p, in[4], a.site, {e.B, e.H, e.M, e.N}, 0, wide);
      decode = decode * attention_dropout_factors(a.dropout_p, in[4], a.site, {e.B, e.H, e.M, e.N}, 1, wide);
    }
    const Tensor z = matmul(encode, heads(in[2]));
    Tensor y = reshape(transpose(matmul(decode, z, true, false), 1, 2), in[1].shape());
    if (mask) y = y * mask.viewed_as({e.B, e.N, 1});
    return cast(y, in[1].dtype());
  }
  static std::vector<Sample> samples();
};

std::vector<Sample> FlareMixer::samples() {
  const InputSpec none{.kind = InputSpec::absent, .shape = {}};
  const auto values = [](Shape shape, bool differentiable = true, double range = 1) {
    return InputSpec{.shape = shape, .lo = -range, .hi = range, .differentiable = differentiable};
  };
  const auto latents = [](Shape shape, bool differentiable = true, double range = 1) {
    return InputSpec{.kind = InputSpec::param, .shape = shape, .lo = -range, .hi = range, .differentiable = differentiable};
  };
  const InputSpec rng{.kind = InputSpec::values, .shape = {2}, .fixed = {11, 7}};
  const InputSpec mask{.kind = InputSpec::mask, .shape = {2, 9}};
  // Second sample: padding only.
  const InputSpec nothing{.kind = InputSpec::values,
                          .shape = {2, 9},
                          .fixed = {1, 1, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
                          .fixed_dtype = DType::u8};
  const Shape x{2, 9, 8}, q{2, 3, 4};
  return {
      {"plain", {latents(q), values(x), values(x), none, none}, Attrs{.scale = 0.5}},
      {"mask", {latents(q), values(x), values(x), mask, none}, Attrs{}},
      {"a sample of padding only", {latents(q), values(x), values(x), nothing, none}, Attrs{}},
      {"q per sample", {values({2, 2, 3, 4}), values(x), values(x), mask, none}, Attrs{.scale = 0.7}},
      {"q of the activations' dtype", {values(q), values(x), values(x), mask, none}, Attrs{}},
      {"one latent", {latents({2, 1, 4}), values(x), values(x), none, none}, Attrs{}},
      // q and k change nothing here: their gradients are rounding around zero.
      {"one token", {latents(q, false), values({2, 1, 8}, false), values({2, 1, 8}), none, none}, Attrs{}},
      {"strided",
       {latents(q), {.shape = x, .transposed = true}, {.shape = x, .transposed = true}, mask, none},
       Attrs{.scale = 0.5}},
      {"dropout", {latents(q), values(x), values(x), mask, rng}, Attrs{.scale = 0.5, .dropout_p = 0.3, .site = 4}},
      {"width 3", {latents({3, 4, 3}), values({1, 7, 9}), values({1, 7, 9}), none, none}, Attrs{}},
      {"width 8",
       {latents({2, 6, 8}, false),
        values({2, 70, 16}, false),
        values({2, 70, 16}, false),
        {.kind = InputSpec::mask, .shape = {2, 70}},
        none},
       Attrs{}},
      {"width 16", {latents({2, 5, 16}), values({1, 6, 32}), values({1, 6, 32}), none, none}, Attrs{.scale = 0.25}},
      {"width 24", {latents({1, 5, 24}), values({2, 6, 24}), values({2, 6, 24}), none, none}, Attrs{.scale = 0.2}},
      {"width 32", {latents({1, 3, 32}), values({1, 4, 32}), values({1, 4, 32}), none, none}, Attrs{.scale = 0.2}},
      {"width 64", {latents({1, 3, 64}), values({1, 4, 64}), values({1, 4, 64}), none, none}, Attrs{.scale = 0.125}},
      {"width 100", {latents({1, 3, 100}), values({1, 4, 100}), values({1, 4, 100}), none, none}, Attrs{.scale = 0.1}},
      {"many tokens",
       {latents({2, 3, 4}),
        values({1, 2600, 8}, false),
        values({1, 2600, 8}, false),
        {.kind = InputSpec::mask, .shape = {1, 2600}},
        none},
       Attrs{}},
      {"many latents",
       {latents({2, 300, 8}, false),
        values({2, 129, 16}, false),
        values({2, 129, 16}, false),
        {.kind = InputSpec::mask, .shape = {2, 129}},
        none},
       Attrs{}},
      {"width 16, q per sample, dropout",
       {latents({2, 2, 37, 16}, false),
        values({2, 150, 32}, false),
        values({2, 150, 32}, false),
        {.kind = InputSpec::mask, .shape = {2, 150}},
        rng},
       Attrs{.scale = 0.5, .dropout_p = 0.25, .site = 4}},
      {"width 64, many latents",
       {latents({1, 260, 64}, false), values({1, 300, 64}, false), values({1, 300, 64}, false), none, none},
       Attrs{.scale = 0.125}},
      // Scores up to 80: their rounding in f32 or bf16 shifts every weight by that many parts.
      {"large scores",
       {latents({2, 3, 4}, true, 4), values({2, 9, 8}, true, 5), values({2, 9, 8}), none, none},
       Attrs{},
       5e-5,
       3e-2,
       1e-6},
  };
}
FLARE_REGISTER_OP(FlareMixer);

}  // namespace

Tensor flare_mixer(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mask, double scale, double dropout_p,
                   const Tensor& rng, uint64_t site) {
  check(q && k && v, "flare_mixer: q, k and v must be given");
  return apply<FlareMixer>({q, k, v, mask, dropout_p > 0 ? rng : Tensor()}, FlareMixer::Attrs{scale, dropout_p, site});
}

}  // namespace flare
