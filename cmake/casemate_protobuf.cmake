# C++ from .proto files of a folder, into build/generated/<folder>/, as a library of its own: our warnings are not for
# generated code.
#
#   casemate_protobuf(rpc rpc.proto)     -> casemate_rpc gains #include "rpc/rpc.pb.h"

set(Protobuf_USE_STATIC_LIBS ON)  # our programs are linked statically
find_package(Protobuf REQUIRED)

function(casemate_protobuf name)
  set(generated ${CMAKE_BINARY_DIR}/generated)
  set(outputs)
  foreach(proto ${ARGN})
    get_filename_component(stem ${proto} NAME_WE)
    set(base ${generated}/${name}/${stem}.pb)
    add_custom_command(
      OUTPUT ${base}.cc ${base}.h
      COMMAND ${CMAKE_COMMAND} -E make_directory ${generated}/${name}
      COMMAND protobuf::protoc --cpp_out=lite:${generated} -I ${CMAKE_SOURCE_DIR}/src ${CMAKE_CURRENT_SOURCE_DIR}/${proto}
      DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${proto}
      VERBATIM)
    list(APPEND outputs ${base}.cc ${base}.h)
  endforeach()
  add_library(casemate_${name}_proto STATIC ${outputs})
  target_include_directories(casemate_${name}_proto SYSTEM PUBLIC ${generated})
  target_compile_options(casemate_${name}_proto PRIVATE -w -Os -fno-rtti -ffunction-sections -fdata-sections
    -fno-omit-frame-pointer)
  if(CASEMATE_SANITIZE)
    target_compile_options(casemate_${name}_proto PRIVATE -fsanitize=${CASEMATE_SANITIZE})
  endif()
  target_link_libraries(casemate_${name}_proto PUBLIC protobuf::libprotobuf-lite Threads::Threads)
  target_link_libraries(casemate_${name} PUBLIC casemate_${name}_proto)
endfunction()
