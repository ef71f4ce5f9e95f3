#include "ops/cast.h"

namespace flare {

struct Cast {
  static constexpr const char* name = "cast";
  struct Attrs {
    DType to = DType::f32;
  };
  static constexpr Keep keeps = Keep::nothing;
  static OutSpecs infer(Inputs in, const Attrs& a) {
    check(is_float(in[0].dtype()) && is_float(a.to), "cast: ", in[0].dtype(), " to ", a.to, "; only floating dtypes convert");
    return {{in[0].shape(), a.to}};
  }
  static void forward_cpu(Inputs in, Outputs out, const Attrs&) { copy(in[0], out[0]); }
  static void forward_cuda(Inputs in, Outputs out, const Attrs&, Stream&) { copy(in[0], out[0]); }
  static Grads vjp(const Saved& s, const Tensor& gy, const Attrs&) { return {apply<Cast>({gy}, {s.in_dtypes[0]})}; }
  static std::vector<Sample> samples() {
    // Rounding has no useful numeric derivative: that the cotangent passes unchanged is tested in test_pointwise.cpp.
    return {{"to f32", {{.shape = {5, 33}, .differentiable = false}}, Attrs{DType::f32}},
            {"to bf16", {{.shape = {4, 7}, .differentiable = false}}, Attrs{DType::bf16}}};
  }
};
FLARE_REGISTER_OP(Cast);

Tensor cast(const Tensor& x, DType dtype) { return x.dtype() == dtype ? x : apply<Cast>({x}, {dtype}); }

}  // namespace flare
