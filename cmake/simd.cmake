# csrc/cpu/isa/table.cpp, once per instruction set. The choice between them is made at run time.
set(FGUNLEARN_SIMD_TARGETS)

function(fgunlearn_isa name)
  add_library(fgunlearn_isa_${name} OBJECT csrc/cpu/isa/table.cpp)
  target_compile_definitions(fgunlearn_isa_${name} PRIVATE FGU_ISA=${name})
  target_compile_options(fgunlearn_isa_${name} PRIVATE ${ARGN})
  target_link_libraries(fgunlearn_isa_${name} PRIVATE fgunlearn_flags)
  list(APPEND FGUNLEARN_SIMD_TARGETS fgunlearn_isa_${name})
  set(FGUNLEARN_SIMD_TARGETS ${FGUNLEARN_SIMD_TARGETS} PARENT_SCOPE)
endfunction()

fgunlearn_isa(scalar)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  fgunlearn_isa(avx2 -mavx2 -mfma -mf16c -mbmi -mbmi2 -mpopcnt)
  # GCC 12 takes the intrinsics' own "undefined" registers for a mistake of ours.
  fgunlearn_isa(avx512 -Wno-uninitialized -Wno-maybe-uninitialized -mavx2 -mfma -mf16c -mbmi -mbmi2 -mpopcnt -mavx512f -mavx512bw -mavx512dq -mavx512vl
    -mprefer-vector-width=512)
  add_compile_definitions(FGU_X86)
endif()
