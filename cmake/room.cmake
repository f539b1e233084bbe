# A room is one folder under src/, one target fastwan_<name>, one test binary <name>_test.
#
#   fastwan_room(base USES fmt::fmt)                      static library of the folder's *.cpp
#   fastwan_room(models TORCH USES fastwan_ops)           uses torch: shared precompiled header
#   fastwan_room(ops SHARED TORCH USES fastwan_kernels)   a shared library
#   fastwan_room(kernels RECURSE ...)                     sub-folders too
#   fastwan_room(... EXCLUDE a.cpp TEST_USES target)
#
# Sources are found: *.cpp is the library, *_test.cpp the test binary.
function(fastwan_room name)
  cmake_parse_arguments(ROOM "SHARED;TORCH;RECURSE" "" "USES;TEST_USES;EXCLUDE" ${ARGN})
  if(ROOM_RECURSE)
    file(GLOB_RECURSE sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/*.cpp")
  else()
    file(GLOB sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/*.cpp")
  endif()
  foreach(excluded IN LISTS ROOM_EXCLUDE)
    list(FILTER sources EXCLUDE REGEX "${excluded}")
  endforeach()
  set(tests ${sources})
  list(FILTER sources EXCLUDE REGEX "_test\\.cpp$")
  list(FILTER tests INCLUDE REGEX "_test\\.cpp$")

  set(kind STATIC)
  if(ROOM_SHARED)
    set(kind SHARED)
  endif()
  set(target "fastwan_${name}")
  add_library(${target} ${kind} ${sources})
  target_include_directories(${target} PUBLIC "${CMAKE_SOURCE_DIR}/src")
  target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:${FASTWAN_WARNINGS}>)
  target_link_libraries(${target} PUBLIC ${ROOM_USES})
  if(ROOM_TORCH)
    fastwan_uses_torch(${target})
  endif()

  if(FASTWAN_TESTS AND tests)
    fastwan_test(${name}_test SOURCES ${tests} USES ${target} ${ROOM_TEST_USES} ${ROOM_TORCH})
    if(ROOM_TORCH)
      fastwan_uses_torch(${name}_test)
      target_sources(${name}_test PRIVATE "${CMAKE_SOURCE_DIR}/tests/support/seed_each_test.cpp")
    endif()
  endif()
endfunction()

# One GoogleTest binary, registered with ctest as one entry (a torch binary takes 0.5 s to start).
function(fastwan_test name)
  cmake_parse_arguments(TEST "" "" "SOURCES;USES;LABELS" ${ARGN})
  list(REMOVE_ITEM TEST_USES TRUE FALSE)
  add_executable(${name} ${TEST_SOURCES})
  target_compile_options(${name} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:${FASTWAN_WARNINGS}>)
  target_link_libraries(${name} PRIVATE ${TEST_USES} GTest::gtest_main)
  target_compile_definitions(${name} PRIVATE FASTWAN_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
  add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY "${CMAKE_SOURCE_DIR}")
  set(labels quick ${TEST_LABELS})
  if(TEST_LABELS)
    set(labels ${TEST_LABELS})
  endif()
  # OpenMP threads that spin while they wait make small tensor tests ten times slower on a busy machine.
  set_tests_properties(${name} PROPERTIES LABELS "${labels}" TIMEOUT 600 ENVIRONMENT "OMP_WAIT_POLICY=passive")
endfunction()
