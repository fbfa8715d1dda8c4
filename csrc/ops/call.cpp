#include "ops/call.h"

#include <cstring>

#if defined(FGU_FOR_CUDA)
// In torch only where torch has CUDA, and this library is loaded nowhere else. Weak, so that it also links against a
// torch without.
extern "C" __attribute__((weak)) int32_t aoti_torch_get_current_cuda_stream(int32_t device_index, void** stream);
#endif

namespace fgunlearn::ops {

using torch::headeronly::DeviceType;
using torch::headeronly::ScalarType;

namespace {

torch::stable::Device device_of(std::initializer_list<const Tensors*> arguments) {
#if defined(FGU_FOR_CUDA)
  for (const Tensors* tensors : arguments) {
    for (const Tensor& tensor : *tensors) {
      if (tensor.is_cuda()) return torch::stable::Device(DeviceType::CUDA, tensor.get_device_index());
    }
  }
#endif
  (void)arguments;
  return torch::stable::Device(DeviceType::CPU);
}

}  // namespace

#if defined(FGU_FOR_CUDA)

Call::Call(const char* name, std::initializer_list<const Tensors*> arguments)
    : name_(name), device_(device_of(arguments)) {
  check(device_.is_cuda(), name, ": called for CUDA without a CUDA tensor");
  check(aoti_torch_get_current_cuda_stream != nullptr, name, ": this torch has no CUDA");
  const int32_t index = device_.index();
  guard_ = std::make_unique<torch::stable::accelerator::DeviceGuard>(index);
  // The runtime linked into this library may keep a current device of its own. It is set anew by every call, and the
  // guard gives torch's back, so there is nothing to restore here.
  cuda::check(cudaSetDevice(index), "cudaSetDevice");
  void* stream = nullptr;
  check(aoti_torch_get_current_cuda_stream(index, &stream) == 0, name, ": torch gave no current stream for ", where());
  int multiprocessors = 0;
  cuda::check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, index),
              "cudaDeviceGetAttribute");
  engine_ = std::make_unique<Engine>(static_cast<cudaStream_t>(stream), multiprocessors, [this](int64_t bytes) {
    workspace_.push_back(empty(bytes, ScalarType::Byte));
    return workspace_.back().data_ptr();
  });
}

bool Call::is_here(const Tensor& tensor) const {
  return tensor.is_cuda() && tensor.get_device_index() == device_.index();
}

std::string Call::where() const { return "cuda:" + std::to_string(device_.index()); }

Tensor Call::make(const std::vector<double>& values) const {
  Tensor out = empty(static_cast<int64_t>(values.size()), ScalarType::Double);
  cuda::upload(engine(), values.data(), out.numel() * static_cast<int64_t>(sizeof(double)), out.data_ptr());
  return out;
}

#else

namespace {

// Over torch's own thread pool, with torch.get_num_threads() workers.
Executor torch_executor() {
  const auto launch = [](int64_t workers, Executor::Task task, void* context) {
    torch::stable::parallel_for(0, workers, 1, [&](int64_t begin, int64_t end) {
      for (int64_t worker = begin; worker < end; ++worker) task(worker, context);
    });
  };
  return Executor(torch::stable::get_num_threads(), launch);
}

}  // namespace

Call::Call(const char* name, std::initializer_list<const Tensors*> arguments)
    : name_(name), device_(device_of(arguments)), engine_(std::make_unique<Engine>(torch_executor())) {}

bool Call::is_here(const Tensor& tensor) const { return tensor.is_cpu(); }

std::string Call::where() const { return "the CPU"; }

Tensor Call::make(const std::vector<double>& values) const {
  Tensor out = empty(static_cast<int64_t>(values.size()), ScalarType::Double);
  if (!values.empty()) std::memcpy(out.data_ptr(), values.data(), values.size() * sizeof(double));
  return out;
}

#endif

Tensor Call::empty(int64_t numel, ScalarType dtype) const {
  return torch::stable::empty({numel}, dtype, std::nullopt, device_);
}

}  // namespace fgunlearn::ops
