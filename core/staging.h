#pragma once
/// Moving data between host and GPU beside the work of the compute stream: batches in, figures out. Neither waits for the other
/// side unless it is far ahead.
#include <memory>
#include <vector>

#include "core/tensor.h"

namespace flare {

/// Sends groups of host tensors to the GPU, double-buffered: while the compute stream works on one group, the next is copied from
/// page-locked memory by a stream of its own. On the host, send() waits until the compute stream has come to the group before, so
/// that the host is never more than one group ahead.
class Upload {
 public:
  Upload();
  ~Upload();
  Upload(const Upload&) = delete;
  Upload& operator=(const Upload&) = delete;

  /// Where each tensor lies in a packed group, in bytes, and behind them the group's size; offsets are multiples of 256.
  static std::vector<int64_t> layout(const std::vector<Tensor>& host);
  /// Copies the tensors aside and starts their way to the GPU; they may change afterwards.
  void send(const std::vector<Tensor>& host);
  /// Queues on the compute stream: wait for the group sent last, then copy it to `target`, u8 on the GPU and large enough.
  void receive(const Tensor& target);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Reads small tensors without stopping the compute stream: queue() asks for their values as they will be at that point of the
/// stream, ready() says whether the oldest request has been answered, take() returns it (and waits if need be). First in, first
/// out.
class Readback {
 public:
  explicit Readback(Device device);
  ~Readback();
  Readback(const Readback&) = delete;
  Readback& operator=(const Readback&) = delete;

  /// One value each, any dtype, all on the device.
  void queue(const std::vector<Tensor>& scalars);
  bool empty() const;
  bool ready() const;  // false when empty
  std::vector<double> take();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace flare
