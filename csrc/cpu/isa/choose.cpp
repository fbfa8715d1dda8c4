#include <cstdlib>
#include <cstring>

#include "cpu/isa/table.h"

namespace fgunlearn::cpu {

namespace {

const Isa& choose() {
  const char* wanted = std::getenv("FGUNLEARN_SIMD");
  const auto allowed = [wanted](const Isa& candidate) {
    return wanted == nullptr || *wanted == '\0' || std::strcmp(wanted, candidate.name) == 0;
  };
#if defined(FGU_X86)
  __builtin_cpu_init();
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2") &&
                  __builtin_cpu_supports("popcnt") && __builtin_cpu_supports("f16c");
  const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (v4 && allowed(avx512::table)) return avx512::table;
  if (v3 && allowed(avx2::table)) return avx2::table;
  if (allowed(scalar::table)) return scalar::table;
  return v4 ? avx512::table : v3 ? avx2::table : scalar::table;
#else
  (void)allowed;
  return scalar::table;
#endif
}

}  // namespace

const Isa& isa() {
  static const Isa& chosen = choose();
  return chosen;
}

}  // namespace fgunlearn::cpu
