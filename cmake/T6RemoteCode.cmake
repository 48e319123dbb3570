# Puts the Python files of src/checkpoint/remote_code into t6_checkpoint (checkpoint/remote_code.h), so that the program needs no
# file beside it. CMake runs again when one of them changes.
set(T6_REMOTE_CODE ${CMAKE_SOURCE_DIR}/src/checkpoint/remote_code)
foreach(name configuration modeling)
  string(TOUPPER ${name} upper)
  file(READ ${T6_REMOTE_CODE}/${name}_t6.py T6_${upper}_PY)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${T6_REMOTE_CODE}/${name}_t6.py)
endforeach()
configure_file(${CMAKE_SOURCE_DIR}/cmake/remote_code.cpp.in ${CMAKE_BINARY_DIR}/generated/remote_code.cpp @ONLY)
target_sources(t6_checkpoint PRIVATE ${CMAKE_BINARY_DIR}/generated/remote_code.cpp)
