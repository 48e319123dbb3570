# Build options and the flags every target of this project shares.
option(T6_TESTS "Build the tests" ON)
option(T6_NATIVE "Compile for the processor of this machine (-march=native)" ON)
option(T6_WERROR "Treat warnings as errors" ON)
option(T6_SANITIZE "Build with the address and undefined-behaviour sanitizers" OFF)
set(T6_LINKER "" CACHE STRING "Linker for -fuse-ld: mold, lld, ...; default for the compiler's own; empty: the first found of mold, lld")
set(T6_CUDA "auto" CACHE STRING "CUDA kernels: auto (when nvcc is found), on, off, emulate (run by the CPU, for tests)")
set(T6_MPI "auto" CACHE STRING "Ranks by MPI: auto (when it is found), on, off")
set(T6_CUDA_ARCHITECTURES "80;90a" CACHE STRING "CUDA architectures to compile for")

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()

include(CheckCXXCompilerFlag)
include(CheckCXXSourceCompiles)

find_program(T6_CCACHE ccache)
if(T6_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_C_COMPILER_LAUNCHER ${T6_CCACHE})
  set(CMAKE_CXX_COMPILER_LAUNCHER ${T6_CCACHE})
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${T6_CCACHE})
endif()

# mold or lld when they are there: the test programs are many and linked often.
if(NOT T6_LINKER)
  foreach(linker mold lld)
    set(CMAKE_REQUIRED_LINK_OPTIONS -fuse-ld=${linker})
    check_cxx_source_compiles("int main() { return 0; }" T6_LINKS_WITH_${linker})
    unset(CMAKE_REQUIRED_LINK_OPTIONS)
    if(T6_LINKS_WITH_${linker})
      set(T6_LINKER ${linker})
      break()
    endif()
  endforeach()
endif()
if(T6_LINKER AND NOT T6_LINKER STREQUAL "default")
  add_link_options(-fuse-ld=${T6_LINKER})
endif()

if(T6_CUDA STREQUAL "emulate")
  # The .cu files as C++, against tests/cuda_emulation in place of the CUDA runtime.
  set(T6_HAVE_CUDA ON)
  set(T6_CUDA_EMULATED ON)
elseif(NOT T6_CUDA STREQUAL "off")
  # Also where the toolkit installs itself without touching PATH.
  if(NOT DEFINED ENV{CUDACXX} AND NOT CMAKE_CUDA_COMPILER)
    find_program(T6_NVCC nvcc HINTS /usr/local/cuda/bin)
    if(T6_NVCC)
      set(ENV{CUDACXX} ${T6_NVCC})
    endif()
  endif()
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    set(CMAKE_CUDA_ARCHITECTURES ${T6_CUDA_ARCHITECTURES})
    enable_language(CUDA)
    find_package(CUDAToolkit REQUIRED)
    # CMake 3.25 does not know nvcc's C++20 flag and refuses to generate; later ones define these two themselves.
    if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
      set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
      set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
    endif()
    set(CMAKE_CUDA_STANDARD 20)
    set(CMAKE_CUDA_STANDARD_REQUIRED ON)
    # fmt 9 turns its constexpr off under nvcc while it keeps consteval, and then compiles neither there; nvcc 13 can do both.
    add_compile_definitions($<$<COMPILE_LANGUAGE:CUDA>:FMT_USE_CONSTEXPR=1>)
    # Kernels call constexpr functions of the standard library (std::bit_cast).
    add_compile_options($<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr>)
    set(T6_HAVE_CUDA ON)
  elseif(T6_CUDA STREQUAL "on")
    message(FATAL_ERROR "T6_CUDA=on, but no nvcc was found. Install the CUDA toolkit or set CUDACXX to its nvcc.")
  endif()
endif()
if(T6_CUDA_EMULATED)
  message(STATUS "t6: CUDA kernels for an emulated device (tests/cuda_emulation)")
elseif(T6_HAVE_CUDA)
  message(STATUS "t6: CUDA kernels for ${CMAKE_CUDA_ARCHITECTURES}")
else()
  message(STATUS "t6: no CUDA kernels (no nvcc, or T6_CUDA=off)")
endif()

# Flags of our own targets only (an interface library, so that found packages keep theirs).
add_library(t6_flags INTERFACE)
target_compile_options(t6_flags INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Wshadow -Wno-sign-compare -Wno-unknown-pragmas>
  # The vector-width note about ABI does not concern a program that is built whole.
  $<$<COMPILE_LANGUAGE:CXX>:-Wno-psabi>)
if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  # A marked loop that its vectoriser gives up on still gives the right result.
  target_compile_options(t6_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-pass-failed>)
endif()
if(T6_WERROR)
  target_compile_options(t6_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Werror>
                                            $<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings>)
endif()
if(T6_NATIVE)
  include(T6Native)
  t6_native_flags(native)
  foreach(flag IN LISTS native)
    target_compile_options(t6_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:${flag}>)
  endforeach()
endif()
# Simd loops are marked one by one; the compiler may then reorder a marked reduction, and nothing else. errno and traps of
# the math functions are never read here.
target_compile_options(t6_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fno-math-errno -fno-trapping-math>)
if(T6_SANITIZE)
  # Asserts stay on (no NDEBUG). Warnings are judged in the ordinary build: gcc invents some under the sanitizers.
  set(CMAKE_CXX_FLAGS_DEBUG "-O1 -g1")
  target_compile_definitions(t6_flags INTERFACE _GLIBCXX_ASSERTIONS)
  target_compile_options(t6_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=address,undefined
    -fno-sanitize-recover=all -fno-omit-frame-pointer>)
  target_link_options(t6_flags INTERFACE -fsanitize=address,undefined)
endif()
