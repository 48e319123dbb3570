# Writes build_info.cpp of t6_base: version, commit, compiler, flags. Only when CMake runs and something changed, and only that one
# file is compiled again: a new commit rebuilds nothing else.
set(T6_COMMIT unknown)
find_package(Git QUIET)
if(GIT_FOUND AND EXISTS ${CMAKE_SOURCE_DIR}/.git)
  execute_process(COMMAND ${GIT_EXECUTABLE} describe --always --abbrev=40 --exclude=* --dirty
                  WORKING_DIRECTORY ${CMAKE_SOURCE_DIR} OUTPUT_VARIABLE T6_COMMIT OUTPUT_STRIP_TRAILING_WHITESPACE
                  ERROR_QUIET RESULT_VARIABLE T6_GIT_RESULT)
  if(NOT T6_GIT_RESULT EQUAL 0)
    set(T6_COMMIT unknown)
  endif()
endif()

# The flags as the compiler sees them: what belongs to CUDA alone is taken out, the generator expressions are opened.
get_target_property(T6_FLAGS_TEXT t6_flags INTERFACE_COMPILE_OPTIONS)
string(TOUPPER "${CMAKE_BUILD_TYPE}" T6_BUILD_TYPE_UPPER)
list(JOIN T6_FLAGS_TEXT " " T6_FLAGS_TEXT)
string(REGEX REPLACE "[$]<[$]<COMPILE_LANGUAGE:CUDA>:[^>]*>" "" T6_FLAGS_TEXT "${T6_FLAGS_TEXT}")
string(REGEX REPLACE "[$]<[$]<COMPILE_LANGUAGE:CXX>:([^>]*)>" "\\1" T6_FLAGS_TEXT "${T6_FLAGS_TEXT}")
string(REGEX REPLACE " +" " " T6_FLAGS_TEXT
       "-std=c++${CMAKE_CXX_STANDARD} ${CMAKE_CXX_FLAGS} ${CMAKE_CXX_FLAGS_${T6_BUILD_TYPE_UPPER}} ${T6_FLAGS_TEXT}")
string(STRIP "${T6_FLAGS_TEXT}" T6_FLAGS_TEXT)
set(T6_CUDA_TEXT false)
if(T6_HAVE_CUDA)
  set(T6_CUDA_TEXT true)
endif()
configure_file(${CMAKE_SOURCE_DIR}/cmake/build_info.cpp.in ${CMAKE_BINARY_DIR}/generated/build_info.cpp @ONLY)
target_sources(t6_base PRIVATE ${CMAKE_BINARY_DIR}/generated/build_info.cpp)
