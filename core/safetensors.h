#pragma once
#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor.h"

namespace flare {

// The safetensors format: u64 header length, JSON header, data. Source: github.com/huggingface/safetensors, README "Format".
// Every failure is a DataError naming the path.

struct NamedTensor {
  std::string name;
  Tensor value;
};
struct SafeTensors {
  std::vector<NamedTensor> tensors;  // in the order of their data
  std::map<std::string, std::string> metadata;
  const Tensor* find(std::string_view name) const;  // nullptr when absent
};

/// Reads CPU tensors: F64 F32 BF16 I64 I32 U8 as they are, F16 widened to f32, I8 and I16 to i32, BOOL as u8. Rejects every other
/// dtype by name, a header that is not the format's JSON (duplicate keys included), and data that has holes, overlaps, or does
/// not fit the shapes or the file.
SafeTensors read_safetensors(const std::string& path);
/// The same from memory; `name` stands in the messages.
SafeTensors parse_safetensors(std::span<const std::byte> file, const std::string& name);
/// Writes in one step (AtomicFile), data on 8-byte boundaries, widest dtypes first, then by name: the bytes do not depend on the
/// order of `tensors`. CUDA tensors are fetched one at a time. DataError for an undefined tensor or a name used twice.
void write_safetensors(const std::string& path, const std::vector<NamedTensor>& tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace flare
