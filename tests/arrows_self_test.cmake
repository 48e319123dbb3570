# Sees arrows_test.cmake fail: writes a small source tree with one violation of each rule and expects each to be named.
#   cmake -DSCRATCH=<folder it may wipe> -P arrows_self_test.cmake
cmake_minimum_required(VERSION 3.25)

file(REMOVE_RECURSE ${SCRATCH})
file(WRITE ${SCRATCH}/base/error.h "#pragma once\n")
file(WRITE ${SCRATCH}/base/log.h "// [log;\n#include <spdlog/spdlog.h>\n")
file(WRITE ${SCRATCH}/tensor/tensor.h "#include \"base/error.h\"\n")
file(WRITE ${SCRATCH}/ops/good.cpp "#include \"ops/deep.h\"\n#include \"tensor/tensor.h\"\n#include \"base/error.h\"\n#include <vector>\n")
file(WRITE ${SCRATCH}/ops/deep.h "#include \"base/log.h\"\n")

# expect(<regex>, or empty for success): runs the checker on the tree.
function(expect pattern)
  execute_process(COMMAND ${CMAKE_COMMAND} -DSOURCE=${SCRATCH} -DARROWS=base=|tensor=base|ops=tensor
                          -P ${CMAKE_CURRENT_LIST_DIR}/arrows_test.cmake
                  RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(pattern STREQUAL "" AND NOT status EQUAL 0)
    message(FATAL_ERROR "a good tree was refused:\n${output}")
  elseif(NOT pattern STREQUAL "" AND (status EQUAL 0 OR NOT output MATCHES "${pattern}"))
    message(FATAL_ERROR "expected failure with '${pattern}', got status ${status}:\n${output}")
  endif()
endfunction()

# expect_bad(<file> <text> <regex>): adds a file, expects the violation, takes the file away.
function(expect_bad file text pattern)
  file(WRITE ${SCRATCH}/${file} "${text}")
  expect("${pattern}")
  file(REMOVE ${SCRATCH}/${file})
endfunction()

expect("")
expect_bad(tensor/up.cpp "int x;\n// [;\n#include \"ops/deep.h\"\n" "src/tensor/up.cpp:3: .*tensor may include only from")
expect_bad(base/up.h "  #  include \"tensor/tensor.h\"\n" "src/base/up.h:1: .*base may include only from base")
expect_bad(ops/short.cpp "#include \"deep.h\"\n" "src/ops/short.cpp:1: .*no such file in src")
expect_bad(base/angle.cpp "\n#include <ops/deep.h>\n" "src/base/angle.cpp:2: .*in quotes")
expect_bad(ops/kernel.cu "#include \"ops/deep.h\"\n"
           "src/base/log.h:2: .*ops/kernel.cu -> ops/deep.h -> base/log.h")
expect_bad(ops/kernel.cu "int x;\n#include <spdlog/fmt/fmt.h>\n" "src/ops/kernel.cu:2: .*spdlog must not reach")
expect_bad(extra/new.cpp "int x;\n" "src/extra/new.cpp: the folder extra has no t6_library")
file(REMOVE_RECURSE ${SCRATCH}/extra)
expect("")
