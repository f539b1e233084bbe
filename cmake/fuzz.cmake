# Coverage instrumentation for libFuzzer in every target of the fuzz preset.
if(FASTWAN_FUZZ)
  if(NOT CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
    message(FATAL_ERROR "Fuzz targets need clang++ (libFuzzer), this is ${CMAKE_CXX_COMPILER_ID}. Use the preset fuzz after `tools/setup --fuzz`.")
  endif()
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()
