// torch.ops.fgunlearn.{spd_perturb, spd_perturb_backward}
#include "core/spd_perturb.h"

#include <cmath>
#include <optional>

#include "ops/tensors.h"
#include FGU_KERNEL_HEADER(spd_perturb.h)

namespace fgunlearn::ops {

using torch::headeronly::ScalarType;

namespace {

// The order of a tensor's elements in memory, where it is one in which samples are contiguous.
enum class Order { none, contiguous, channels_last };

// Sizes of 1 have no say, as in torch's Tensor.is_contiguous(memory_format=...), which the fake asks.
Order order_of(const Tensor& tensor) {
  if (tensor.is_contiguous()) return Order::contiguous;
  if (tensor.dim() != 4 && tensor.dim() != 5) return Order::none;
  int64_t expected = 1;
  const auto fits = [&](int64_t d) {
    if (tensor.size(d) != 1 && tensor.stride(d) != expected) return false;
    expected *= tensor.size(d);
    return true;
  };
  if (!fits(1)) return Order::none;
  for (int64_t d = tensor.dim() - 1; d >= 2; --d) {
    if (!fits(d)) return Order::none;
  }
  return fits(0) ? Order::channels_last : Order::none;
}

// One call's tensors: checked, x in an order in which samples are contiguous, the others in the same.
class Batch {
 public:
  Batch(const Call& op, const Tensor& x, const Tensor& g) : op_(op), x_(x), g_(g) {
    check_tensor("x", x);
    check(x.dim() > 0, op, ": x must have a dimension for the batch, and has none");
    order_ = order_of(x);
    if (order_ == Order::none) {
      order_ = Order::contiguous;
      x_ = torch::stable::contiguous(x);
    }
    g_ = like_x("g", g);
  }

  // The tensor, which must have x's shape and dtype, or a copy of it in x's order.
  Tensor like_x(const char* argument, const Tensor& tensor) const {
    check_tensor(argument, tensor);
    check_same_shape(op_, "x", x_, argument, tensor, 0);
    check(tensor.scalar_type() == x_.scalar_type(), op_, ": ", argument, " must have the dtype of x");
    if (order_of(tensor) == order_) return tensor;
    Tensor copy = empty_like_x();
    torch::stable::copy_(copy, tensor);
    return copy;
  }

  Tensor empty_like_x() const { return torch::stable::empty_like(x_); }

  SpdBatch described() const {
    const int64_t samples = x_.size(0);
    const int64_t size = samples == 0 ? 0 : x_.numel() / samples;
    return {dtype_of(op_, "x", 0, x_), samples, size, x_.data_ptr(), g_.data_ptr()};
  }

 private:
  void check_tensor(const char* argument, const Tensor& tensor) const {
    check(op_.is_here(tensor), op_, ": ", argument, " must be on ", op_.where(), " like the others");
    check(tensor.layout() == torch::headeronly::Layout::Strided, op_, ": ", argument,
          " must be a strided tensor, not a sparse or packed one");
    dtype_of(op_, argument, 0, tensor);
  }

  const Call& op_;
  Tensor x_;
  Tensor g_;
  Order order_;
};

Ball ball_of(const Call& op, const std::string& norm) {
  if (norm == "none") return Ball::none;
  if (norm == "l2") return Ball::l2;
  check(norm == "linf", op, ": norm must be 'none', 'l2' or 'linf', got '", norm, "'");
  return Ball::linf;
}

// `eps_each`, where there is one, becomes contiguous, and must stay alive as long as the rule is used.
SpdRule rule_of(const Call& op, int64_t samples, std::optional<Tensor>& eps_each, double eps, const std::string& norm,
                double radius, double low, double high) {
  SpdRule rule{ball_of(op, norm), eps, nullptr, DType::f32, radius, low, high};
  check(std::isfinite(radius) && radius > 0.0, op, ": radius must be finite and > 0, got ", radius);
  check(low < high, op, ": lo must be less than hi, got ", low, " and ", high);
  if (!eps_each.has_value()) {
    check(std::isfinite(eps) && eps > 0.0, op, ": eps must be finite and > 0, got ", eps);
    return rule;
  }
  rule.eps_dtype = dtype_of(op, "eps", 0, *eps_each);
  check(op.is_here(*eps_each), op, ": eps must be on ", op.where(), " like the others");
  check(eps_each->dim() == 1 && eps_each->numel() == samples, op, ": eps must be 1-D with ", samples,
        " values, one per sample; it has ", eps_each->dim(), " dimensions and ", eps_each->numel(), " values");
  eps_each = torch::stable::contiguous(*eps_each);
  rule.eps_each = eps_each->data_ptr();
#if !defined(FGU_FOR_CUDA)  // there it would wait for the device
  for (int64_t sample = 0; sample < samples; ++sample) {
    const double one = rule.eps_of<double>(sample);
    check(std::isfinite(one) && one > 0.0, op, ": eps[", sample, "] must be finite and > 0, got ", one);
  }
#endif
  return rule;
}

ScalarType type_of_norms(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

std::tuple<Tensor, Tensor> spd_perturb(const Tensor x, const Tensor g, std::optional<Tensor> eps_each, double eps,
                                       const std::string norm, double radius, double lo, double hi) {
  const Tensors xs{x};
  const Tensors gs{g};
  const Call op("spd_perturb", {&xs, &gs});
  const Batch tensors(op, x, g);
  const SpdBatch batch = tensors.described();
  const SpdRule rule = rule_of(op, batch.samples, eps_each, eps, norm, radius, lo, hi);
  Tensor out = tensors.empty_like_x();
  Tensor norms = op.empty(rule.ball == Ball::none ? 0 : batch.samples, type_of_norms(x));
  kernels::spd_perturb(op.engine(), batch, rule, out.data_ptr(), norms.data_ptr());
  return {out, norms};
}

std::tuple<Tensor, Tensor> spd_perturb_backward(const Tensor grad, const Tensor x, const Tensor g, const Tensor norms,
                                                std::optional<Tensor> eps_each, double eps, const std::string norm,
                                                double radius, double lo, double hi, bool to_x, bool to_g) {
  const Tensors xs{x};
  const Tensors gs{g};
  const Call op("spd_perturb_backward", {&xs, &gs});
  const Batch tensors(op, x, g);
  const SpdBatch batch = tensors.described();
  const SpdRule rule = rule_of(op, batch.samples, eps_each, eps, norm, radius, lo, hi);
  check(op.is_here(norms) && norms.scalar_type() == type_of_norms(x) && norms.is_contiguous() &&
            norms.numel() == (rule.ball == Ball::none ? 0 : batch.samples),
        op, ": norms must be those that spd_perturb returned");
  const Tensor given = tensors.like_x("grad", grad);
  Tensor dx = to_x ? tensors.empty_like_x() : op.empty(0, x.scalar_type());
  Tensor dg = to_g ? tensors.empty_like_x() : op.empty(0, x.scalar_type());
  kernels::spd_perturb_backward(op.engine(), batch, rule, given.data_ptr(), norms.data_ptr(),
                                to_x ? dx.data_ptr() : nullptr, to_g ? dg.data_ptr() : nullptr);
  return {dx, dg};
}

}  // namespace

FGU_SCHEMAS(m) {
  m.def(
      "spd_perturb(Tensor x, Tensor g, Tensor? eps_each, float eps, str norm, float radius, float lo, float hi) -> "
      "(Tensor, Tensor)");
  m.def(
      "spd_perturb_backward(Tensor grad, Tensor x, Tensor g, Tensor norms, Tensor? eps_each, float eps, str norm, "
      "float radius, float lo, float hi, bool to_x, bool to_g) -> (Tensor, Tensor)");
}

FGU_KERNELS(m) {
  m.impl("spd_perturb", TORCH_BOX(&spd_perturb));
  m.impl("spd_perturb_backward", TORCH_BOX(&spd_perturb_backward));
}

}  // namespace fgunlearn::ops
