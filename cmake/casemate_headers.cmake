# The standard headers nearly every file includes, parsed once: more than half of a compilation was spent on them.
# One precompiled header for libraries (-fPIC) and one, with gtest, for test programs (-fPIE). Sources still include
# what they use.
#
#   casemate_precompiled(casemate_oci library)    casemate_precompiled(oci_tests test)

function(casemate_headers owner)
  target_link_libraries(${owner} PRIVATE casemate_options)
  target_precompile_headers(${owner} PRIVATE ${ARGN})
  target_compile_options(${owner} PRIVATE -fpch-preprocess)
  # What ccache compares in place of the precompiled file, whose bytes differ from one folder to the next.
  string(SHA256 sum "${ARGN}|${CMAKE_CXX_COMPILER_VERSION}|${CMAKE_BUILD_TYPE}|${CASEMATE_SANITIZE}|${fmt_VERSION}|${GTest_VERSION}")
  file(CONFIGURE OUTPUT CMakeFiles/${owner}.dir/cmake_pch.hxx.gch.sum CONTENT "${sum}\n")
endfunction()

function(casemate_precompiled target kind)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    target_precompile_headers(${target} REUSE_FROM casemate_${kind}_headers)
    # g++ 12 forgets that precompiled code comes from system headers, and its bounds warnings about std::string are false.
    target_compile_options(${target} PRIVATE -fpch-preprocess -Wno-array-bounds -Wno-restrict)
  endif()
endfunction()

if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  set(headers
    <algorithm> <array> <atomic> <chrono> <condition_variable> <cstdint> <cstring> <deque> <functional> <map> <memory>
    <mutex> <optional> <set> <span> <string> <string_view> <unordered_map> <utility> <variant> <vector> <fmt/core.h>)
  file(CONFIGURE OUTPUT headers.cc CONTENT "int main() {}\n")
  add_library(casemate_library_headers OBJECT ${CMAKE_CURRENT_BINARY_DIR}/headers.cc)
  casemate_headers(casemate_library_headers ${headers})
  add_executable(casemate_test_headers EXCLUDE_FROM_ALL ${CMAKE_CURRENT_BINARY_DIR}/headers.cc)
  target_link_libraries(casemate_test_headers PRIVATE GTest::gtest GTest::gmock)
  casemate_headers(casemate_test_headers ${headers} <gtest/gtest.h>)
endif()
