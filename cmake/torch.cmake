# Where torch's headers and libraries are. Not find_package(Torch): that pulls in torch's CUDA toolkit and overwrites the
# architecture list, and the stable ABI needs neither.
set(FGUNLEARN_TORCH_TARGET "2.11")

find_package(Python REQUIRED COMPONENTS Interpreter)
execute_process(
  COMMAND ${Python_EXECUTABLE} -c
    "import importlib.util as u, pathlib, re; d = pathlib.Path(u.find_spec('torch').origin).parent; v = re.search(r'__version__ = .([^+\\x27\\x22]+)', (d / 'version.py').read_text()).group(1); print(d, v, sep=';')"
  OUTPUT_VARIABLE torch_found OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE torch_status ERROR_QUIET)
if(NOT torch_status EQUAL 0)
  message(FATAL_ERROR "fgunlearn needs torch >= ${FGUNLEARN_TORCH_TARGET} to build, and ${Python_EXECUTABLE} has none. "
    "Run: pip install 'torch>=${FGUNLEARN_TORCH_TARGET}'")
endif()
list(GET torch_found 0 torch_dir)
list(GET torch_found 1 FGUNLEARN_TORCH_VERSION)
if(FGUNLEARN_TORCH_VERSION VERSION_LESS FGUNLEARN_TORCH_TARGET)
  message(FATAL_ERROR "fgunlearn needs torch >= ${FGUNLEARN_TORCH_TARGET} to build, found ${FGUNLEARN_TORCH_VERSION}")
endif()
message(STATUS "torch ${FGUNLEARN_TORCH_VERSION} in ${torch_dir}")

add_library(torch_stable INTERFACE)
target_include_directories(torch_stable SYSTEM INTERFACE ${torch_dir}/include)
# The high bytes are major and minor: only functions that torch 2.11 already had are visible.
target_compile_definitions(torch_stable INTERFACE TORCH_TARGET_VERSION=0x020b000000000000)
target_link_libraries(torch_stable INTERFACE ${torch_dir}/lib/libtorch.so ${torch_dir}/lib/libtorch_cpu.so)
