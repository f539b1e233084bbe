# Our own code compiles without a warning; third-party headers are system headers.
set(FASTWAN_WARNINGS -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wnon-virtual-dtor -Woverloaded-virtual -Werror
    -Wno-missing-field-initializers)  # designated initialisers name what they set
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  list(APPEND FASTWAN_WARNINGS -Wno-restrict)  # g++ 12 sees overlaps in std::string concatenation that are not there (PR 105651)
endif()
