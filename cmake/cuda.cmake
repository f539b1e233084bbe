# Finds nvcc and says how the *.cu files of a room are compiled. FASTWAN_CUDA=AUTO takes nvcc where it is,
# ON insists, OFF ignores it; FASTWAN_HAS_CUDA is the answer.
set(FASTWAN_HAS_CUDA OFF)
if(NOT FASTWAN_CUDA STREQUAL "OFF" AND NOT CMAKE_CROSSCOMPILING)
  find_program(FASTWAN_NVCC nvcc HINTS ENV CUDA_HOME PATHS /usr/local/cuda PATH_SUFFIXES bin)
  set(nvcc_problem "nvcc was not found in PATH or /usr/local/cuda/bin")
  if(FASTWAN_NVCC)
    execute_process(COMMAND "${FASTWAN_NVCC}" --version OUTPUT_VARIABLE nvcc_says ERROR_QUIET)
    string(REGEX MATCH "release ([0-9]+\\.[0-9]+)" nvcc_release "${nvcc_says}")
    set(nvcc_version "${CMAKE_MATCH_1}")
    set(nvcc_problem "")
    if(NOT nvcc_version VERSION_GREATER_EQUAL 12.8)
      set(nvcc_problem "${FASTWAN_NVCC} is ${nvcc_version}; 12.8 or newer is needed")
    endif()
  endif()
  if(NOT nvcc_problem)
    set(FASTWAN_HAS_CUDA ON)
  elseif(FASTWAN_CUDA STREQUAL "ON")
    message(FATAL_ERROR "FASTWAN_CUDA=ON, but ${nvcc_problem}.")
  else()
    message(STATUS "CPU only: ${nvcc_problem}.")
  endif()
endif()

# 80 is code for sm_80 plus PTX, which newer GPUs compile when they load it; 90a is Hopper with wgmma and TMA.
set(FASTWAN_MMA_ARCHITECTURES "80" CACHE STRING "CUDA architectures of the portable kernels")
set(FASTWAN_SM90_ARCHITECTURES "90a-real" CACHE STRING "CUDA architectures of the Hopper kernels")

if(FASTWAN_HAS_CUDA)
  set(CMAKE_CUDA_COMPILER "${FASTWAN_NVCC}")
  set(CMAKE_CUDA_ARCHITECTURES "${FASTWAN_MMA_ARCHITECTURES}")
  enable_language(CUDA)
  find_package(CUDAToolkit REQUIRED)
  message(STATUS "CUDA kernels with nvcc ${nvcc_version}.")
endif()

# fastwan_cuda_objects(<target> ARCHITECTURES <list> SOURCES <*.cu> USES <targets>): one object library,
# because architectures belong to targets. CMake 3.25.1 knows no C++20 for nvcc 13, so the flag goes through
# options.
function(fastwan_cuda_objects target)
  cmake_parse_arguments(CU "" "" "ARCHITECTURES;SOURCES;USES" ${ARGN})
  add_library(${target} OBJECT ${CU_SOURCES})
  target_include_directories(${target} PUBLIC "${CMAKE_SOURCE_DIR}/src")
  set_target_properties(${target} PROPERTIES CUDA_ARCHITECTURES "${CU_ARCHITECTURES}" CUDA_STANDARD_REQUIRED OFF)
  target_compile_options(${target} PRIVATE
    $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20 -Werror=all-warnings -Xptxas=-v -Xcompiler=-fPIC>)
  target_link_libraries(${target} PUBLIC ${CU_USES})
endfunction()

# The *.cu files under the caller's folder: *_sm90.cu for Hopper, all others for every GPU from sm_80 on.
# Makes fastwan_<name>_mma and fastwan_<name>_sm90, and <list_variable> with those that exist.
function(fastwan_cuda_families name list_variable)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/*.cu")
  set(hopper ${sources})
  list(FILTER hopper INCLUDE REGEX "_sm90\\.cu$")
  list(FILTER sources EXCLUDE REGEX "_sm90\\.cu$")
  set(families "")
  if(sources)
    fastwan_cuda_objects(fastwan_${name}_mma ARCHITECTURES "${FASTWAN_MMA_ARCHITECTURES}" SOURCES ${sources} USES ${ARGN})
    list(APPEND families fastwan_${name}_mma)
  endif()
  if(hopper)
    fastwan_cuda_objects(fastwan_${name}_sm90 ARCHITECTURES "${FASTWAN_SM90_ARCHITECTURES}" SOURCES ${hopper} USES ${ARGN})
    list(APPEND families fastwan_${name}_sm90)
  endif()
  set(${list_variable} "${families}" PARENT_SCOPE)
endfunction()

# torch's CUDA half, for libfastwan_ops_cuda.so alone: everything else must load where there is no GPU.
if(FASTWAN_HAS_CUDA AND FASTWAN_TORCH)
  foreach(lib c10_cuda torch_cuda)
    add_library(${lib} SHARED IMPORTED GLOBAL)
    set_target_properties(${lib} PROPERTIES
      IMPORTED_LOCATION "${FASTWAN_TORCH_ROOT}/lib/lib${lib}.so"
      INTERFACE_LINK_LIBRARIES torch_cpu
      INTERFACE_SYSTEM_INCLUDE_DIRECTORIES "${CUDAToolkit_INCLUDE_DIRS}")
  endforeach()
endif()
