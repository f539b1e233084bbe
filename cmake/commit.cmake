# cmake -DSOURCE=DIR -DOUTPUT=FILE -P commit.cmake: writes the C++ file that says which sources a
# program was built from. Run by every build; the file is touched only where its text changes.
#
# The commit is the last one that changed what is compiled, not HEAD: pages and recipes make no
# other program, and need not link one again.
set(commit unknown)
set(compiled src cmake CMakeLists.txt VERSION)
find_program(GIT git)
if(GIT)
  set(git "${GIT}" --no-optional-locks -C "${SOURCE}")
  # A tree without history of its own may lie inside another repository.
  execute_process(COMMAND ${git} rev-parse --show-prefix RESULT_VARIABLE failed OUTPUT_VARIABLE prefix
                  OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  if(NOT failed AND prefix STREQUAL "")
    execute_process(COMMAND ${git} log -1 --format=%H -- ${compiled} OUTPUT_VARIABLE found
                    OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    execute_process(COMMAND ${git} status --porcelain -- ${compiled} OUTPUT_VARIABLE changed ERROR_QUIET)
    if(found)
      string(SUBSTRING "${found}" 0 12 commit)
    endif()
    if(found AND changed)
      string(APPEND commit -dirty)
    endif()
  endif()
endif()
file(CONFIGURE OUTPUT "${OUTPUT}" @ONLY CONTENT [[
#include "cli/commit.h"

const char* fastwan::cli::source_commit() {
  return "@commit@";
}
]])
