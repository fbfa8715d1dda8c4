// Compiled once per instruction set, with FGU_ISA naming the namespace.
#include "cpu/isa/table.h"

#include "cpu/isa/bracket.h"
#include "cpu/isa/perturb.h"
#include "cpu/isa/score.h"
#include "cpu/isa/select.h"
#include "cpu/isa/spd_perturb.h"

#define FGU_STRING_(x) #x
#define FGU_STRING(x) FGU_STRING_(x)

namespace fgunlearn::cpu::FGU_ISA {

extern const Isa table;
const Isa table = {
    FGU_STRING(FGU_ISA),
    {classify<float, uint32_t>, nullptr, classify<f16_t, uint32_t>, classify<bf16_t, uint32_t>},
    {classify<float, uint64_t>, classify<double, uint64_t>, classify<f16_t, uint64_t>, classify<bf16_t, uint64_t>},
    {histogram<float, uint32_t>, nullptr, histogram<f16_t, uint32_t>, histogram<bf16_t, uint32_t>},
    {histogram<float, uint64_t>, histogram<double, uint64_t>, histogram<f16_t, uint64_t>, histogram<bf16_t, uint64_t>},
    random_words,
    {accumulate<float, float>, accumulate<double, double>, accumulate<float, f16_t>, accumulate<float, bf16_t>},
    {count_nonfinite<float>, count_nonfinite<double>, count_nonfinite<f16_t>, count_nonfinite<bf16_t>},
    draw,
    {shift<float>, shift<double>, shift<f16_t>, shift<bf16_t>},
    {sum_of_squared_tanh<float>, sum_of_squared_tanh<double>, sum_of_squared_tanh<f16_t>, sum_of_squared_tanh<bf16_t>},
    {largest_tanh<float>, largest_tanh<double>, largest_tanh<f16_t>, largest_tanh<bf16_t>},
    {pull_sums<float>, pull_sums<double>, pull_sums<f16_t>, pull_sums<bf16_t>},
    {shift_backward<float>, shift_backward<double>, shift_backward<f16_t>, shift_backward<bf16_t>},
};

}  // namespace fgunlearn::cpu::FGU_ISA
