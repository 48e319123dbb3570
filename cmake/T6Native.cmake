# T6_NATIVE: the flags that "for the processor of this machine" means here, written out.
#
# -march=native itself is not passed on. ccache hashes the words of the command line, so an object cached on one processor
# would be a hit on another and could hold instructions that one lacks (a -D naming the processor would not help: ccache
# leaves -D out of the hash when it falls back to comparing preprocessed text). gcc tells what native stands for, and those
# words are hashed; they also reach build.ninja, so a build folder moved to another machine is rebuilt after configuring.
# They are found anew at each configure, never cached.

# t6_native_flags(<out>): the flags as a list; empty, with a message, where the compiler offers none.
function(t6_native_flags out)
  set(${out} "" PARENT_SCOPE)
  if(NOT CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    check_cxx_compiler_flag(-march=native T6_HAS_MARCH_NATIVE)
    if(NOT T6_HAS_MARCH_NATIVE)
      message(STATUS "t6: ${CMAKE_CXX_COMPILER_ID} has no -march=native here; building for the baseline processor")
    elseif(CMAKE_CXX_COMPILER_LAUNCHER MATCHES "ccache")
      message(STATUS "t6: T6_NATIVE needs gcc to be safe with ccache; building for the baseline processor")
    else()
      set(${out} -march=native PARENT_SCOPE)
    endif()
    return()
  endif()

  execute_process(COMMAND ${CMAKE_CXX_COMPILER} -march=native "-###" -E -x c++ /dev/null
                  OUTPUT_VARIABLE text ERROR_VARIABLE text RESULT_VARIABLE status)
  string(REGEX MATCH "[^\n]*cc1plus[^\n]*" line "${text}")
  string(REPLACE "\"" "" line "${line}")
  string(REGEX REPLACE "--param " "--param=" line "${line}")
  string(REGEX MATCHALL " (-m[a-z0-9.=_+-]+|--param=l[0-9]-cache[a-z0-9=-]+)" words "${line}")
  list(TRANSFORM words STRIP)
  list(REMOVE_DUPLICATES words)
  if(NOT status EQUAL 0 OR NOT words MATCHES "-march=")
    message(STATUS "t6: gcc does not tell what -march=native stands for; building for the baseline processor")
    return()
  endif()
  # Wider vectors than gcc's default of 256 bits on processors with AVX-512.
  if(words MATCHES "-mavx512f")
    list(APPEND words -mprefer-vector-width=512)
  endif()
  string(REGEX MATCH "-march=[^;]+" march "${words}")
  message(STATUS "t6: compiling for this processor (${march} and its features)")
  set(${out} ${words} PARENT_SCOPE)
endfunction()
