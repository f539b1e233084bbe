# Own imported targets for the torch wheel's C++ libraries. TorchConfig.cmake asks for a CUDA toolkit even for a
# CPU build, so it is not used.
file(GLOB torch_roots "${FASTWAN_VENV}/lib/python3.*/site-packages/torch")
if(NOT torch_roots)
  message(FATAL_ERROR "torch is not in ${FASTWAN_VENV}. Run `make setup`, or pass -DFASTWAN_VENV=<a Python environment with torch 2.11.0>.")
endif()
list(GET torch_roots 0 torch_root)
file(STRINGS "${torch_root}/version.py" torch_version_line REGEX "^__version__")
if(NOT torch_version_line MATCHES "2\\.11\\.0")
  message(FATAL_ERROR "fastwan needs torch 2.11.0, ${torch_root} says ${torch_version_line}")
endif()
set(FASTWAN_TORCH_ROOT "${torch_root}")
foreach(lib c10 torch_cpu)
  add_library(${lib} SHARED IMPORTED GLOBAL)
  set_target_properties(${lib} PROPERTIES
    IMPORTED_LOCATION "${torch_root}/lib/lib${lib}.so"
    INTERFACE_INCLUDE_DIRECTORIES "${torch_root}/include;${torch_root}/include/torch/csrc/api/include")
endforeach()
set_property(TARGET torch_cpu PROPERTY INTERFACE_LINK_LIBRARIES c10)
# libtorch_cpu.so names libcudart and libcupti; the loader finds them in the wheels beside it.
get_filename_component(site_packages "${torch_root}" DIRECTORY)
file(GLOB nvidia_libs "${site_packages}/nvidia/*/lib")
set(FASTWAN_TORCH_RPATH "${torch_root}/lib;${nvidia_libs}")

# One precompiled header serves all torch rooms; a target of its own builds it.
file(WRITE "${CMAKE_BINARY_DIR}/torch_pch.cpp" "")
add_library(fastwan_torch_pch OBJECT "${CMAKE_BINARY_DIR}/torch_pch.cpp")
target_include_directories(fastwan_torch_pch PUBLIC "${CMAKE_SOURCE_DIR}/src")
target_compile_options(fastwan_torch_pch PRIVATE -fpch-preprocess -fopenmp $<$<COMPILE_LANGUAGE:CXX>:${FASTWAN_WARNINGS}>)
target_link_libraries(fastwan_torch_pch PRIVATE torch_cpu)
set(torch_headers <ATen/core/Tensor.h> <ATen/TensorOperators.h> <ATen/Parallel.h> <torch/library.h>
    <torch/csrc/autograd/custom_function.h> <torch/nn/module.h>)
target_precompile_headers(fastwan_torch_pch PRIVATE ${torch_headers})

# ccache reads this line instead of hashing 580 MB for every torch file (CCACHE_PCH_EXTSUM): what the header is made of.
# Flags are part of ccache's own key.
file(CONFIGURE OUTPUT "${CMAKE_BINARY_DIR}/CMakeFiles/fastwan_torch_pch.dir/cmake_pch.hxx.gch.sum"
  CONTENT "${torch_version_line} ${CMAKE_CXX_COMPILER_VERSION} ${torch_headers}\n")

# at::parallel_for is an inline function: without -fopenmp it runs on one thread. Torch's wheel carries libgomp.so.1
# itself, so all share one pool.
function(fastwan_uses_torch target)
  target_link_libraries(${target} PUBLIC torch_cpu gomp)
  target_precompile_headers(${target} REUSE_FROM fastwan_torch_pch)
  target_compile_options(${target} PRIVATE -fpch-preprocess -fopenmp)
  get_target_property(kind ${target} TYPE)
  if(kind STREQUAL "EXECUTABLE")  # -fPIE would not match the precompiled header
    set_target_properties(${target} PROPERTIES POSITION_INDEPENDENT_CODE OFF)
    target_compile_options(${target} PRIVATE -fPIC)
  endif()
  set_target_properties(${target} PROPERTIES
    JOB_POOL_COMPILE torch_pool
    BUILD_RPATH "${FASTWAN_TORCH_RPATH}")
endfunction()
