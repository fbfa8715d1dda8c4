// Compiled once per instruction set, with FGU_ISA naming the namespace.
#include "cpu/isa/table.h"

#include "cpu/isa/perturb.h"
#include "cpu/isa/score.h"
#include "cpu/isa/select.h"

#define FGU_STRING_(x) #x
#define FGU_STRING(x) FGU_STRING_(x)

namespace fgunlearn::cpu::FGU_ISA {

extern const Isa table;
const Isa table = {
    FGU_STRING(FGU_ISA),
    {classify<float, uint32_t>, nullptr, classify<f16_t, uint32_t>, classify<bf16_t, uint32_t>},
    {classify<float, uint64_t>, classify<double, uint64_t>, classify<f16_t, uint64_t>, classify<bf16_t, uint64_t>},
    random_words,
    {accumulate<float, float>, accumulate<double, double>, accumulate<float, f16_t>, accumulate<float, bf16_t>},
    {count_nonfinite<float>, count_nonfinite<double>, count_nonfinite<f16_t>, count_nonfinite<bf16_t>},
    draw,
};

}  // namespace fgunlearn::cpu::FGU_ISA
