# The CUDA library is a target of its own (csrc/cuda). This version has no CUDA kernels: AUTO builds none, and ON is
# refused rather than quietly giving a CPU package.
if(FGUNLEARN_CUDA STREQUAL "ON")
  message(FATAL_ERROR "FGUNLEARN_CUDA=ON, but this version of fgunlearn has no CUDA kernels. Use AUTO or OFF.")
elseif(NOT FGUNLEARN_CUDA MATCHES "^(AUTO|OFF)$")
  message(FATAL_ERROR "FGUNLEARN_CUDA must be AUTO, ON or OFF, got '${FGUNLEARN_CUDA}'")
endif()
set(FGUNLEARN_CUDA_STATE "OFF")
set(FGUNLEARN_CUDA_ARCHITECTURES "")
