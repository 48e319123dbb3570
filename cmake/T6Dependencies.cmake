# Libraries found on the system; scripts/setup.sh installs them. Each missing one is reported with its Debian package.
find_package(Threads REQUIRED)

# t6_find(<package> <debian package> [args...]): find_package with a message that says what to install.
macro(t6_find package debian)
  find_package(${package} ${ARGN} QUIET)
  if(NOT ${package}_FOUND)
    message(FATAL_ERROR "${package} was not found. Install it with scripts/setup.sh (Debian package ${debian}).")
  endif()
endmacro()

# t6_find_plain(<name> <header> <library> <debian package>): a library without a CMake package, as target T6::<name>.
function(t6_find_plain name header library debian)
  find_path(T6_${name}_INCLUDE ${header})
  find_library(T6_${name}_LIBRARY ${library})
  if(NOT T6_${name}_INCLUDE OR NOT T6_${name}_LIBRARY)
    message(FATAL_ERROR "${name} was not found. Install it with scripts/setup.sh (Debian package ${debian}).")
  endif()
  add_library(T6::${name} UNKNOWN IMPORTED GLOBAL)
  set_target_properties(T6::${name} PROPERTIES IMPORTED_LOCATION ${T6_${name}_LIBRARY}
                        INTERFACE_INCLUDE_DIRECTORIES ${T6_${name}_INCLUDE})
endfunction()

t6_find(OpenMP g++ COMPONENTS CXX)
# Not its CMake package: Debian's asks for OpenCL headers that only its GPU interface needs.
t6_find_plain(dnnl oneapi/dnnl/dnnl.hpp dnnl libdnnl-dev)
t6_find(fmt libfmt-dev)
t6_find(spdlog libspdlog-dev)
t6_find(CLI11 libcli11-dev)
t6_find(nlohmann_json nlohmann-json3-dev)
t6_find(yaml-cpp libyaml-cpp-dev)
t6_find(ZLIB zlib1g-dev)
t6_find_plain(zstd zstd.h zstd libzstd-dev)
t6_find_plain(xxhash xxhash.h xxhash libxxhash-dev)
t6_find_plain(simdjson simdjson.h simdjson libsimdjson-dev)
# Its classes have other members with threads: all that include it must be compiled alike.
set_property(TARGET T6::simdjson PROPERTY INTERFACE_COMPILE_OPTIONS $<$<COMPILE_LANGUAGE:CXX>:-pthread>)
t6_find_plain(pcre2 pcre2.h pcre2-8 libpcre2-dev)

find_package(HDF5 QUIET COMPONENTS C)
if(NOT HDF5_FOUND)
  message(FATAL_ERROR "HDF5 was not found. Install it with scripts/setup.sh (Debian package libhdf5-dev).")
endif()
add_library(T6::hdf5 INTERFACE IMPORTED GLOBAL)
target_include_directories(T6::hdf5 INTERFACE ${HDF5_C_INCLUDE_DIRS})
target_link_libraries(T6::hdf5 INTERFACE ${HDF5_C_LIBRARIES})
if(T6_TESTS)
  t6_find(GTest libgtest-dev)
endif()

# Ranks that find each other and compute together on CPUs. Its C interface alone. T6_HAVE_MPI, or not.
set(T6_HAVE_MPI OFF)
if(NOT T6_MPI STREQUAL "off")
  find_package(MPI QUIET COMPONENTS C)
  if(MPI_C_FOUND)
    set(T6_HAVE_MPI ON)
    message(STATUS "t6: ranks by MPI ${MPI_C_VERSION}")
  elseif(T6_MPI STREQUAL "on")
    message(FATAL_ERROR "T6_MPI=on, but MPI was not found. Install it with scripts/setup.sh (Debian package libopenmpi-dev).")
  endif()
endif()
if(NOT T6_HAVE_MPI)
  message(STATUS "t6: one rank on CPUs: no MPI (T6_MPI=off, or Debian package libopenmpi-dev is missing)")
endif()

# cuDNN's attention, in CUDA builds: headers alone, the library is loaded at run time. Target T6::cudnn_frontend, or none.
if(T6_HAVE_CUDA AND NOT T6_CUDA_EMULATED)
  set(T6_CUDNN_FRONTEND "" CACHE PATH "Folder of cudnn_frontend.h; empty: searched, also in build/deps")
  find_path(T6_CUDNN_FRONTEND_INCLUDE cudnn_frontend.h
            HINTS ${T6_CUDNN_FRONTEND} ${CMAKE_SOURCE_DIR}/build/deps/cudnn-frontend/include ${CUDAToolkit_INCLUDE_DIRS})
  find_path(T6_CUDNN_INCLUDE cudnn.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
  if(T6_CUDNN_FRONTEND_INCLUDE AND T6_CUDNN_INCLUDE)
    message(STATUS "t6: attention by cuDNN where it is found at run time")
    add_library(T6::cudnn_frontend INTERFACE IMPORTED GLOBAL)
    target_include_directories(T6::cudnn_frontend INTERFACE ${T6_CUDNN_FRONTEND_INCLUDE} ${T6_CUDNN_INCLUDE})
    target_compile_definitions(T6::cudnn_frontend INTERFACE T6_HAVE_CUDNN=1)
    target_link_libraries(T6::cudnn_frontend INTERFACE ${CMAKE_DL_LIBS})
  elseif(T6_CUDNN_FRONTEND)
    message(FATAL_ERROR "T6_CUDNN_FRONTEND is ${T6_CUDNN_FRONTEND}, but cudnn_frontend.h is not there or cudnn.h is nowhere.")
  else()
    message(STATUS "t6: attention by this project's own kernels alone, slower than cuDNN's: cudnn_frontend.h or cudnn.h was "
                   "not found (scripts/setup.sh gets the first, cuDNN 9 has the second)")
  endif()
endif()

# NCCL, in CUDA builds: its header alone, the library is loaded at run time. T6_HAVE_NCCL, or not.
set(T6_HAVE_NCCL OFF)
if(T6_CUDA_EMULATED)
  set(T6_HAVE_NCCL ON)
elseif(T6_HAVE_CUDA)
  find_path(T6_NCCL_INCLUDE nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS} /usr/local/include)
  if(T6_NCCL_INCLUDE)
    set(T6_HAVE_NCCL ON)
    message(STATUS "t6: several GPUs by NCCL where it is found at run time")
  else()
    message(STATUS "t6: several GPUs by MPI at best, through host memory: nccl.h was not found (Debian package libnccl-dev of "
                   "NVIDIA's repository)")
  endif()
endif()
