// torch.ops.fgunlearn.{sparse_sgd_, sparse_adam_}
#include <cmath>
#include <limits>
#include <optional>

#include "ops/tensors.h"
#include FGU_KERNEL_HEADER(update.h)

namespace fgunlearn::ops {

using torch::headeronly::ScalarType;

namespace {

// A number in a tensor of one element. One on the CPU is read now; one on the op's device is read by the kernel, so
// that the host need not wait for it. `position`: in a list of such, or -1.
Number number_of(const Call& op, const char* argument, const Tensor& tensor, int64_t position = -1) {
  std::ostringstream label;
  label << argument;
  if (position >= 0) label << "[" << position << "]";
  const ScalarType type = tensor.scalar_type();
  check(type == ScalarType::Float || type == ScalarType::Double, op, ": ", label.str(),
        " must be float32 or float64, got scalar type ", static_cast<int>(type));
  check(tensor.numel() == 1, op, ": ", label.str(), " must have one element, got ", tensor.numel());
  Number number;
  number.wide = type == ScalarType::Double;
  number.data = tensor.data_ptr();
  if (tensor.is_cpu()) return Number{number()};
  check(op.is_here(tensor), op, ": ", label.str(), " must be on the CPU or on ", op.where());
  return number;
}

std::vector<Number> numbers_of(const Call& op, const char* argument, const Tensors& tensors) {
  std::vector<Number> numbers;
  for (size_t t = 0; t < tensors.size(); ++t) {
    numbers.push_back(number_of(op, argument, tensors[t], static_cast<int64_t>(t)));
  }
  return numbers;
}

// What every optimizer's op takes, checked.
struct Step {
  std::vector<Segment> params;
  std::vector<Segment> grads;
  std::vector<IndexList> lists;
  std::vector<Number> steps;
  StepOptions options;
};

Step checked_step(const Call& op, const Tensors& param, const Tensors& grad, const Tensors& indices,
                  const Tensors& step, double lr, const std::optional<Tensor>& lr_tensor,
                  const std::optional<Tensor>& grad_scale, const std::optional<Tensor>& found_inf, bool gathered,
                  std::optional<int64_t> rounding_seed, const std::vector<int64_t>& offsets) {
  Step made;
  made.options.lr = lr_tensor ? number_of(op, "lr_tensor", *lr_tensor) : Number{lr};
  if (grad_scale) made.options.grad_scale = number_of(op, "grad_scale", *grad_scale);
  if (found_inf) made.options.found_inf = number_of(op, "found_inf", *found_inf);
  check(made.options.lr.data != nullptr || std::isfinite(made.options.lr()), op, ": lr must be finite, got ",
        made.options.lr.value);
  made.options.gathered = gathered;
  made.options.stochastic = rounding_seed.has_value();
  made.options.seed = static_cast<uint64_t>(rounding_seed.value_or(0));
  check_same_length(op, "param", param.size(), "grad", grad.size());
  made.params = writable_segments_of(op, "param", param);
  made.grads = segments_of(op, "grad", grad);
  made.lists = indices_of(op, indices, made.params);
  for (size_t t = 0; t < param.size(); ++t) {
    check(made.params[t].dtype == made.grads[t].dtype, op, ": grad[", t, "] must have the dtype of param[", t, "]");
    if (gathered) {
      check(grad[t].dim() == 1 && grad[t].is_contiguous() && made.grads[t].numel == made.lists[t].count, op, ": grad[",
            t, "] must be contiguous with one value for each of ", made.lists[t].count, " indices, got ",
            made.grads[t].numel);
    } else {
      check_same_shape(op, "param", param[t], "grad", grad[t], t);
    }
  }
  if (made.options.stochastic) {
    check_same_length(op, "param", param.size(), "offsets", offsets.size());
    for (size_t t = 0; t < param.size(); ++t) {
      check(offsets[t] >= 0 && offsets[t] <= std::numeric_limits<int64_t>::max() - made.params[t].numel, op,
            ": offsets[", t, "] must be in [0, 2^63 - ", made.params[t].numel, "], got ", offsets[t]);
      made.params[t].offset = offsets[t];
    }
  }
  made.steps = numbers_of(op, "step", step);
  for (size_t t = 0; t < made.steps.size(); ++t) {
    check(made.steps[t].data != nullptr || made.steps[t].value >= 1.0, op, ": step[", t, "] counts from 1, got ",
          made.steps[t].value);
  }
  return made;
}

// One value per index in the type that the parameter is updated in.
std::vector<Segment> states_of(const Call& op, const char* argument, const Tensors& tensors, const Step& step) {
  check_same_length(op, "param", step.params.size(), argument, tensors.size());
  const auto states = segments_of(op, argument, tensors);
  for (size_t t = 0; t < states.size(); ++t) {
    const DType wanted = step.params[t].dtype == DType::f64 ? DType::f64 : DType::f32;
    check(states[t].dtype == wanted && tensors[t].is_contiguous(), op, ": ", argument, "[", t, "] must be contiguous ",
          wanted == DType::f64 ? "float64" : "float32");
    check(states[t].numel == step.lists[t].count, op, ": ", argument, "[", t, "] has ", states[t].numel,
          " elements for ", step.lists[t].count, " indices");
  }
  return states;
}

void sparse_sgd_(const Tensors param, const Tensors grad, const Tensors indices, const Tensors momentum_buffer,
                 const std::vector<int64_t> first, double lr, double momentum, double dampening, double weight_decay,
                 bool nesterov, bool maximize, const std::optional<Tensor> lr_tensor,
                 const std::optional<Tensor> grad_scale, const std::optional<Tensor> found_inf, bool gathered,
                 std::optional<int64_t> rounding_seed, const Tensors step, const std::vector<int64_t> offsets) {
  const Call op("sparse_sgd_", {&param, &indices});
  const Sgd sgd{momentum, dampening, weight_decay, nesterov, maximize};
  check(std::isfinite(lr) && std::isfinite(momentum) && std::isfinite(dampening) && std::isfinite(weight_decay), op,
        ": lr, momentum, dampening and weight_decay must be finite, got ", lr, ", ", momentum, ", ", dampening, ", ",
        weight_decay);
  check_same_length(op, "param", param.size(), "first", first.size());
  const Step made = checked_step(op, param, grad, indices, step, lr, lr_tensor, grad_scale, found_inf, gathered,
                                 rounding_seed, offsets);
  if (made.options.stochastic || !step.empty()) check_same_length(op, "param", param.size(), "step", step.size());
  check(momentum != 0.0 || momentum_buffer.empty(), op, ": momentum_buffer must be empty when momentum is 0");
  std::vector<Segment> buffers;
  if (momentum != 0.0) buffers = states_of(op, "momentum_buffer", momentum_buffer, made);
  kernels::sgd(op.engine(), made.params, made.grads, made.lists, buffers, first, made.steps, sgd, made.options);
}

void sparse_adam_(const Tensors param, const Tensors grad, const Tensors indices, const Tensors exp_avg,
                  const Tensors exp_avg_sq, const Tensors max_exp_avg_sq, const Tensors step, double lr, double beta1,
                  double beta2, double eps, double weight_decay, bool decoupled, bool amsgrad, bool maximize,
                  const std::optional<Tensor> lr_tensor, const std::optional<Tensor> grad_scale,
                  const std::optional<Tensor> found_inf, bool gathered, std::optional<int64_t> rounding_seed,
                  const std::vector<int64_t> offsets) {
  const Call op("sparse_adam_", {&param, &indices});
  const Adam adam{beta1, beta2, weight_decay, eps, decoupled, amsgrad, maximize};
  check(std::isfinite(lr) && std::isfinite(eps) && std::isfinite(weight_decay), op,
        ": lr, eps and weight_decay must be finite, got ", lr, ", ", eps, ", ", weight_decay);
  check(beta1 >= 0.0 && beta1 < 1.0 && beta2 >= 0.0 && beta2 < 1.0, op, ": beta1 and beta2 must be in [0, 1), got ",
        beta1, " and ", beta2);
  check_same_length(op, "param", param.size(), "step", step.size());
  const Step made = checked_step(op, param, grad, indices, step, lr, lr_tensor, grad_scale, found_inf, gathered,
                                 rounding_seed, offsets);
  const auto first_moments = states_of(op, "exp_avg", exp_avg, made);
  const auto second_moments = states_of(op, "exp_avg_sq", exp_avg_sq, made);
  check(amsgrad || max_exp_avg_sq.empty(), op, ": max_exp_avg_sq must be empty without amsgrad");
  std::vector<Segment> largest;
  if (amsgrad) largest = states_of(op, "max_exp_avg_sq", max_exp_avg_sq, made);
  kernels::adam(op.engine(), made.params, made.grads, made.lists, first_moments, second_moments, largest, made.steps,
                adam, made.options);
}

}  // namespace

FGU_SCHEMAS(m) {
  m.def(
      "sparse_sgd_(Tensor(a!)[] param, Tensor[] grad, Tensor[] indices, Tensor(b!)[] momentum_buffer, int[] first, "
      "float lr, float momentum, float dampening, float weight_decay, bool nesterov, bool maximize, "
      "Tensor? lr_tensor, Tensor? grad_scale, Tensor? found_inf, bool gathered, int? rounding_seed, Tensor[] step, "
      "int[] offsets) -> ()");
  m.def(
      "sparse_adam_(Tensor(a!)[] param, Tensor[] grad, Tensor[] indices, Tensor(b!)[] exp_avg, "
      "Tensor(c!)[] exp_avg_sq, Tensor(d!)[] max_exp_avg_sq, Tensor[] step, float lr, float beta1, float beta2, "
      "float eps, float weight_decay, bool decoupled, bool amsgrad, bool maximize, Tensor? lr_tensor, "
      "Tensor? grad_scale, Tensor? found_inf, bool gathered, int? rounding_seed, int[] offsets) -> ()");
}

FGU_KERNELS(m) {
  m.impl("sparse_sgd_", TORCH_BOX(&sparse_sgd_));
  m.impl("sparse_adam_", TORCH_BOX(&sparse_adam_));
}

}  // namespace fgunlearn::ops
