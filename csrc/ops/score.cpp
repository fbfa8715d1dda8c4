// torch.ops.fgunlearn.{score_accumulate_, count_nonfinite}
#include "cpu/score.h"

#include <algorithm>
#include <cmath>

#include "ops/tensors.h"

namespace fgunlearn::ops {

using torch::headeronly::ScalarType;

namespace {

ScoreKind kind_of(const std::string& kind) {
  if (kind == "grad") return ScoreKind::grad;
  if (kind == "abs_grad") return ScoreKind::abs_grad;
  check(kind == "fisher", "score_accumulate_: kind must be 'grad', 'abs_grad' or 'fisher', got '", kind, "'");
  return ScoreKind::fisher;
}

void score_accumulate_(const Tensors score, const Tensors grad, const std::string kind, double weight) {
  const char* op = "score_accumulate_";
  const ScoreKind what = kind_of(kind);
  check(std::isfinite(weight), op, ": weight must be finite, got ", weight);
  check_same_length(op, "score", score.size(), "grad", grad.size());
  Tensors copies;
  const auto scores = segments_of(op, "score", score);
  const auto grads = contiguous_segments_of(op, "grad", grad, copies);
  for (size_t t = 0; t < scores.size(); ++t) {
    check(score[t].is_contiguous(), op, ": score[", t, "] must be contiguous");
    check_same_shape(op, "score", score[t], "grad", grad[t], t);
    const DType wanted = grads[t].dtype == DType::f64 ? DType::f64 : DType::f32;
    check(scores[t].dtype == wanted, op, ": score[", t, "] must be ", wanted == DType::f64 ? "float64" : "float32",
          " for this grad");
  }
  cpu::accumulate_scores(torch_executor(), scores, grads, what, weight);
}

Tensor count_nonfinite(const Tensors tensors) {
  Tensors copies;
  const auto segments = contiguous_segments_of("count_nonfinite", "tensors", tensors, copies);
  const auto counts = cpu::count_nonfinite(torch_executor(), segments);
  Tensor out = empty_cpu(static_cast<int64_t>(counts.size()), ScalarType::Long);
  std::copy(counts.begin(), counts.end(), static_cast<int64_t*>(out.data_ptr()));
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(fgunlearn, m) {
  m.def("score_accumulate_(Tensor(a!)[] score, Tensor[] grad, str kind, float weight) -> ()");
  m.def("count_nonfinite(Tensor[] tensors) -> Tensor");
}

FGU_CPU_KERNELS(m) {
  m.impl("score_accumulate_", TORCH_BOX(&score_accumulate_));
  m.impl("count_nonfinite", TORCH_BOX(&count_nonfinite));
}

}  // namespace fgunlearn::ops
