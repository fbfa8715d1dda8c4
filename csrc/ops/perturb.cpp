// torch.ops.fgunlearn.{sparse_perturb_, sparse_ascent_, rms}
#include <cmath>
#include <limits>

#include "ops/tensors.h"
#include FGU_KERNEL_HEADER(perturb.h)

namespace fgunlearn::ops {

using torch::headeronly::ScalarType;

namespace {

Draw draw_of(const std::string& name, size_t position) {
  if (name == "none") return Draw::none;
  if (name == "normal") return Draw::normal;
  check(name == "uniform", "sparse_perturb_: draw[", position, "] must be 'none', 'normal' or 'uniform', got '", name,
        "'");
  return Draw::uniform;
}

void sparse_perturb_(const Tensors theta, const Tensors indices, const std::vector<std::string> draw,
                     const std::vector<double> keep, const std::vector<double> shift, const std::vector<double> scale,
                     int64_t seed, int64_t stream, const std::vector<int64_t> offsets) {
  const Call op("sparse_perturb_", {&theta, &indices});
  auto segments = writable_segments_of(op, "theta", theta);
  const auto lists = indices_of(op, indices, segments);
  check_same_length(op, "theta", theta.size(), "draw", draw.size());
  check_same_length(op, "theta", theta.size(), "keep", keep.size());
  check_same_length(op, "theta", theta.size(), "shift", shift.size());
  check_same_length(op, "theta", theta.size(), "scale", scale.size());
  check_same_length(op, "theta", theta.size(), "offsets", offsets.size());
  check(stream >= 0 && stream <= 0xffffffffll, op, ": stream must fit in 32 bits, got ", stream);
  std::vector<Perturbation> how(theta.size());
  for (size_t t = 0; t < theta.size(); ++t) {
    how[t] = {draw_of(draw[t], t), keep[t], shift[t], scale[t]};
    check(std::isfinite(keep[t]) && std::isfinite(shift[t]) && std::isfinite(scale[t]), op,
          ": keep, shift and scale must be finite, got ", keep[t], ", ", shift[t], ", ", scale[t], " for theta[", t,
          "]");
    check(offsets[t] >= 0, op, ": offsets[", t, "] must be >= 0, got ", offsets[t]);
    check(offsets[t] <= std::numeric_limits<int64_t>::max() - segments[t].numel, op, ": offsets[", t, "] is ",
          offsets[t], ", and with the tensor's ", segments[t].numel, " elements not below 2^63");
    segments[t].offset = offsets[t];
  }
  kernels::perturb(op.engine(), segments, lists, how, static_cast<uint64_t>(seed), static_cast<Stream>(stream));
}

void sparse_ascent_(const Tensors theta, const Tensors grads, const Tensors indices, double lr) {
  const Call op("sparse_ascent_", {&theta, &indices});
  check(std::isfinite(lr), op, ": lr must be finite, got ", lr);
  check_same_length(op, "theta", theta.size(), "grads", grads.size());
  const auto segments = writable_segments_of(op, "theta", theta);
  const auto gradients = segments_of(op, "grads", grads);
  const auto lists = indices_of(op, indices, segments);
  for (size_t t = 0; t < theta.size(); ++t) {
    check_same_shape(op, "theta", theta[t], "grads", grads[t], t);
    check(segments[t].dtype == gradients[t].dtype, op, ": grads[", t, "] must have the dtype of theta[", t, "]");
  }
  kernels::ascend(op.engine(), segments, gradients, lists, lr);
}

Tensor rms(const Tensors tensors) {
  const Call op("rms", {&tensors});
  Tensors copies;
  const auto segments = contiguous_segments_of(op, "tensors", tensors, copies);
  Tensor out = op.empty(static_cast<int64_t>(segments.size()), ScalarType::Double);
  kernels::rms(op.engine(), segments, static_cast<double*>(out.data_ptr()));
  return out;
}

}  // namespace

FGU_SCHEMAS(m) {
  m.def(
      "sparse_perturb_(Tensor(a!)[] theta, Tensor[] indices, str[] draw, float[] keep, float[] shift, float[] scale, "
      "int seed, int stream, int[] offsets) -> ()");
  m.def("sparse_ascent_(Tensor(a!)[] theta, Tensor[] grads, Tensor[] indices, float lr) -> ()");
  m.def("rms(Tensor[] tensors) -> Tensor");
}

FGU_KERNELS(m) {
  m.impl("sparse_perturb_", TORCH_BOX(&sparse_perturb_));
  m.impl("sparse_ascent_", TORCH_BOX(&sparse_ascent_));
  m.impl("rms", TORCH_BOX(&rms));
}

}  // namespace fgunlearn::ops
