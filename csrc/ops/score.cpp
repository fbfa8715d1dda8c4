// torch.ops.fgunlearn.{score_accumulate_, score_accumulate_topk_, count_nonfinite}
#include <cmath>

#include "ops/selected.h"
#include "ops/tensors.h"
#include FGU_KERNEL_HEADER(score.h)
#include FGU_KERNEL_HEADER(select.h)

namespace fgunlearn::ops {

using torch::headeronly::ScalarType;

namespace {

struct Accumulation {
  std::vector<Segment> scores;
  std::vector<Segment> grads;
  Tensors copies;  // of gradients that are not contiguous
  ScoreKind kind;
};

ScoreKind kind_of(const Call& op, const std::string& kind) {
  if (kind == "grad") return ScoreKind::grad;
  if (kind == "abs_grad") return ScoreKind::abs_grad;
  check(kind == "fisher", op, ": kind must be 'grad', 'abs_grad' or 'fisher', got '", kind, "'");
  return ScoreKind::fisher;
}

Accumulation checked(const Call& op, const Tensors& score, const Tensors& grad, const std::string& kind,
                     double weight) {
  Accumulation made;
  made.kind = kind_of(op, kind);
  check(std::isfinite(weight), op, ": weight must be finite, got ", weight);
  check_same_length(op, "score", score.size(), "grad", grad.size());
  made.scores = segments_of(op, "score", score);
  made.grads = contiguous_segments_of(op, "grad", grad, made.copies);
  for (size_t t = 0; t < made.scores.size(); ++t) {
    check(score[t].is_contiguous(), op, ": score[", t, "] must be contiguous");
    check_same_shape(op, "score", score[t], "grad", grad[t], t);
    const DType wanted = made.grads[t].dtype == DType::f64 ? DType::f64 : DType::f32;
    check(made.scores[t].dtype == wanted, op, ": score[", t, "] must be ", wanted == DType::f64 ? "float64" : "float32",
          " for this grad");
  }
  return made;
}

void score_accumulate_(const Tensors score, const Tensors grad, const std::string kind, double weight) {
  const Call op("score_accumulate_", {&score, &grad});
  const Accumulation what = checked(op, score, grad, kind, weight);
  kernels::accumulate_scores(op.engine(), what.scores, what.grads, what.kind, weight);
}

std::tuple<Tensors, Tensor> score_accumulate_topk_(const Tensors score, const Tensors grad, const std::string kind,
                                                   double weight, const std::vector<int64_t> k, bool each) {
  const Call op("score_accumulate_topk_", {&score, &grad});
  const Accumulation what = checked(op, score, grad, kind, weight);
  int64_t n = 0;
  for (const Segment& segment : what.scores) n += segment.numel;
  check(k.size() == (each ? score.size() : 1), op, ": got ", k.size(), " values of k for ",
        each ? score.size() : size_t{1}, each ? " tensors" : " list");
  for (size_t t = 0; t < k.size(); ++t) check_count(op, "k", k[t], each ? what.scores[t].numel : n);
  const auto selected = refusing_bad_keys(op, "score", [&] {
    return kernels::accumulate_top_k(op.engine(), what.scores, what.grads, what.kind, weight, k, each);
  });
  return {write_indices(op, what.scores, selected), op.make(selected.thresholds())};
}

Tensor count_nonfinite(const Tensors tensors) {
  const Call op("count_nonfinite", {&tensors});
  Tensors copies;
  const auto segments = contiguous_segments_of(op, "tensors", tensors, copies);
  Tensor out = op.empty(static_cast<int64_t>(segments.size()), ScalarType::Long);
  kernels::count_nonfinite(op.engine(), segments, static_cast<int64_t*>(out.data_ptr()));
  return out;
}

}  // namespace

FGU_SCHEMAS(m) {
  m.def("score_accumulate_(Tensor(a!)[] score, Tensor[] grad, str kind, float weight) -> ()");
  m.def(
      "score_accumulate_topk_(Tensor(a!)[] score, Tensor[] grad, str kind, float weight, int[] k, bool each=False) -> "
      "(Tensor[], Tensor)");
  m.def("count_nonfinite(Tensor[] tensors) -> Tensor");
}

FGU_KERNELS(m) {
  m.impl("score_accumulate_", TORCH_BOX(&score_accumulate_));
  m.impl("score_accumulate_topk_", TORCH_BOX(&score_accumulate_topk_));
  m.impl("count_nonfinite", TORCH_BOX(&count_nonfinite));
}

}  // namespace fgunlearn::ops
