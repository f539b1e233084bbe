# Language level, position independence, ccache and mold: what every target shares.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)  # a precompiled header only matches equal flags
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()

find_program(FASTWAN_CCACHE ccache)
if(FASTWAN_CCACHE)
  # -fpch-preprocess and this sloppiness let ccache work beside the precompiled header.
  set(CMAKE_CXX_COMPILER_LAUNCHER
      ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime
      CCACHE_PCH_EXTSUM=1 CCACHE_BASEDIR=${CMAKE_SOURCE_DIR} CCACHE_NOHASHDIR=1 ${FASTWAN_CCACHE})
endif()

find_program(FASTWAN_MOLD mold)
if(FASTWAN_MOLD AND NOT CMAKE_CROSSCOMPILING)
  add_link_options(-fuse-ld=mold)
endif()

# At most two torch files at once: each takes 0.5 to 1.3 GB.
set_property(GLOBAL PROPERTY JOB_POOLS torch_pool=2)
