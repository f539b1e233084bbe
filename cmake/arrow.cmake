# Arrow and Parquet C++ from the pyarrow wheel. The wheel's libraries carry their version in the name
# (libarrow.so.2600) and have no plain link, so they are named by full path.
file(GLOB pyarrow_roots "${FASTWAN_VENV}/lib/python3.*/site-packages/pyarrow")
if(NOT pyarrow_roots)
  message(FATAL_ERROR "pyarrow is not in ${FASTWAN_VENV}. Run `make setup`.")
endif()
list(GET pyarrow_roots 0 FASTWAN_ARROW_ROOT)
foreach(lib arrow parquet)
  file(GLOB found "${FASTWAN_ARROW_ROOT}/lib${lib}.so.*")
  list(LENGTH found count)
  if(NOT count EQUAL 1)
    message(FATAL_ERROR "wanted one lib${lib}.so.* in ${FASTWAN_ARROW_ROOT}, found: ${found}")
  endif()
  add_library(fastwan_wheel_${lib} SHARED IMPORTED GLOBAL)
  set_target_properties(fastwan_wheel_${lib} PROPERTIES
    IMPORTED_LOCATION "${found}"
    INTERFACE_INCLUDE_DIRECTORIES "${FASTWAN_ARROW_ROOT}/include")
endforeach()
set_property(TARGET fastwan_wheel_parquet PROPERTY INTERFACE_LINK_LIBRARIES fastwan_wheel_arrow)
