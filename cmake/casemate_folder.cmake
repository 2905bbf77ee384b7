# One folder is one library: every .cc in it but *_test.cc, *_fuzz.cc and *_bench.cc, which lie beside the code they
# exercise and become programs of their own. A new file needs no line here.
#
#   casemate_folder(oci base linux nlohmann_json::nlohmann_json)     -> target casemate_oci
#   casemate_program(casemate cli_main.cc cli sandbox)               -> build/bin/casemate, linked statically
#
# Dependencies named like a folder stand for its library.

find_package(fmt REQUIRED)
find_package(GTest REQUIRED)
find_package(Threads REQUIRED)

# Made now: ccache writes the path of a folder that is not there in another way.
file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/generated)
add_library(casemate_options INTERFACE)
target_include_directories(casemate_options INTERFACE ${CMAKE_SOURCE_DIR}/src ${CMAKE_BINARY_DIR}/generated)
target_compile_options(casemate_options INTERFACE
  -Wall -Wextra -Werror -Wno-missing-field-initializers -fno-omit-frame-pointer
  # "struct X" and "class X" are one type but in Microsoft's names.
  $<$<CXX_COMPILER_ID:Clang>:-Wno-mismatched-tags>
  -fstack-protector-strong $<$<COMPILE_LANGUAGE:CXX>:-fno-rtti>
  -ffunction-sections -fdata-sections)
target_compile_definitions(casemate_options INTERFACE _GNU_SOURCE)
target_link_options(casemate_options INTERFACE -Wl,--gc-sections)
if(CASEMATE_SANITIZE)
  target_compile_options(casemate_options INTERFACE -fsanitize=${CASEMATE_SANITIZE} -fno-sanitize-recover=all)
  target_link_options(casemate_options INTERFACE -fsanitize=${CASEMATE_SANITIZE})
else()
  target_compile_definitions(casemate_options INTERFACE _GLIBCXX_ASSERTIONS)
endif()
target_link_libraries(casemate_options INTERFACE Threads::Threads)

function(casemate_link target visibility)
  foreach(dependency ${ARGN})
    if(dependency STREQUAL "fmt::fmt")
      continue()  # compiled into base (fmt_library.cc): Debian has no static libfmt
    elseif(dependency MATCHES "^[a-z_]+$" AND NOT dependency MATCHES "^casemate_")
      target_link_libraries(${target} ${visibility} casemate_${dependency})
    else()
      target_link_libraries(${target} ${visibility} ${dependency})
    endif()
  endforeach()
endfunction()

function(casemate_folder name)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cc ${CMAKE_CURRENT_SOURCE_DIR}/*.S)
  set(own ${sources})
  list(FILTER own EXCLUDE REGEX "_(test|fuzz|bench)\\.cc$")
  if(own)
    add_library(casemate_${name} STATIC ${own})
    casemate_precompiled(casemate_${name} library)
    set(link PUBLIC)
  else()
    add_library(casemate_${name} INTERFACE)
    set(link INTERFACE)
  endif()
  target_link_libraries(casemate_${name} ${link} casemate_options)
  casemate_link(casemate_${name} ${link} ${ARGN})

  set(tests ${sources})
  list(FILTER tests INCLUDE REGEX "_test\\.cc$")
  if(tests)
    add_executable(${name}_tests ${tests})
    casemate_precompiled(${name}_tests test)
    set_target_properties(${name}_tests PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
    target_link_libraries(${name}_tests PRIVATE casemate_${name} GTest::gtest GTest::gmock GTest::gtest_main)
    add_test(NAME ${name} COMMAND ${name}_tests)
  endif()

  if(CASEMATE_FUZZ)
    set(fuzzers ${sources})
    list(FILTER fuzzers INCLUDE REGEX "_fuzz\\.cc$")
    foreach(fuzzer ${fuzzers})
      get_filename_component(fuzzer_name ${fuzzer} NAME_WE)
      add_executable(${fuzzer_name} ${fuzzer})
      set_target_properties(${fuzzer_name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/fuzz)
      target_compile_options(${fuzzer_name} PRIVATE -fsanitize=fuzzer)
      target_link_options(${fuzzer_name} PRIVATE -fsanitize=fuzzer)
      target_link_libraries(${fuzzer_name} PRIVATE casemate_${name})
    endforeach()
  endif()
endfunction()

# Relative relocations in a tenth of the room, most of what a program does before main() (glibc 2.36).
include(CheckCXXSourceCompiles)
check_cxx_source_compiles("#include <features.h>\n#if !__GLIBC_PREREQ(2, 36)\n#error\n#endif\nint main() {}" CASEMATE_LIBC_HAS_RELR)

# Our programs are linked statically: a dynamic C++ program costs 1.5 ms more to start, and a sandbox starts three.
function(casemate_program name main)
  add_executable(${name} ${main})
  casemate_link(${name} PRIVATE casemate_options ${ARGN})
  if(NOT CASEMATE_SANITIZE)
    target_link_options(${name} PRIVATE -static-pie $<$<BOOL:${CASEMATE_LIBC_HAS_RELR}>:-Wl,-z,pack-relative-relocs>)
  endif()
  install(TARGETS ${name} RUNTIME DESTINATION bin)
endfunction()
