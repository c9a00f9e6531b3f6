# What Starling uses of others, each under one name `ext_...` that a folder puts
# into its DEPS. All of it is installed by launcher/setup.sh; a missing package
# stops the configuration with that advice.

find_package(PkgConfig QUIET)
if(NOT PKG_CONFIG_FOUND)
  message(FATAL_ERROR "pkg-config was not found. Run launcher/setup.sh, which installs all that the build needs.")
endif()
find_package(Threads REQUIRED)

# ext_<name> from a pkg-config module.
function(starling_external_pkg name module)
  pkg_check_modules(${name} QUIET IMPORTED_TARGET ${module})
  if(NOT ${name}_FOUND)
    message(FATAL_ERROR "The library '${module}' was not found. Run launcher/setup.sh, which installs all that the build needs.")
  endif()
  add_library(ext_${name} INTERFACE)
  target_link_libraries(ext_${name} INTERFACE PkgConfig::${name})
endfunction()

# ext_<name> from a header, and a library if LIBRARY is given.
function(starling_external_header name header)
  cmake_parse_arguments(PARSE_ARGV 2 arg "" "LIBRARY" "")
  find_path(STARLING_${name}_INCLUDE ${header})
  mark_as_advanced(STARLING_${name}_INCLUDE)
  if(NOT STARLING_${name}_INCLUDE)
    message(FATAL_ERROR "The header <${header}> was not found. Run launcher/setup.sh, which installs all that the build needs.")
  endif()
  add_library(ext_${name} INTERFACE)
  target_include_directories(ext_${name} SYSTEM INTERFACE ${STARLING_${name}_INCLUDE})
  if(arg_LIBRARY)
    find_library(STARLING_${name}_LIBRARY ${arg_LIBRARY})
    mark_as_advanced(STARLING_${name}_LIBRARY)
    if(NOT STARLING_${name}_LIBRARY)
      message(FATAL_ERROR "The library '${arg_LIBRARY}' was not found. Run launcher/setup.sh, which installs all that the build needs.")
    endif()
    target_link_libraries(ext_${name} INTERFACE ${STARLING_${name}_LIBRARY})
  endif()
endfunction()

add_library(ext_threads INTERFACE)
target_link_libraries(ext_threads INTERFACE Threads::Threads)

starling_external_pkg(fmt fmt)
starling_external_pkg(zmq libzmq)
starling_external_pkg(sodium libsodium)
starling_external_pkg(prometheus prometheus-cpp-core)
# Through pkg-config because its flags change the layout of its classes.
starling_external_pkg(httplib cpp-httplib)
starling_external_pkg(yaml yaml-cpp)
starling_external_pkg(xxhash libxxhash)
starling_external_pkg(curl libcurl)
starling_external_header(cppzmq zmq.hpp)
target_link_libraries(ext_cppzmq INTERFACE ext_zmq)
starling_external_header(expected tl/expected.hpp)
starling_external_header(json nlohmann/json.hpp)
starling_external_header(flatbuffers flatbuffers/flatbuffers.h)
starling_external_header(program_options boost/program_options.hpp LIBRARY boost_program_options)
starling_external_pkg(spdlog spdlog)
# Without pkg-config, which would link what trains models too.
starling_external_header(sentencepiece sentencepiece_processor.h LIBRARY sentencepiece)

if(STARLING_BUILD_TESTS)
  starling_external_pkg(crypto libcrypto)
  starling_external_header(gtest gtest/gtest.h LIBRARY gtest)
  starling_external_header(gmock gmock/gmock.h LIBRARY gmock)
  starling_external_header(rapidcheck rapidcheck.h LIBRARY rapidcheck)
  starling_external_header(benchmark benchmark/benchmark.h LIBRARY benchmark)
  find_library(STARLING_GTEST_MAIN gtest_main REQUIRED)
  mark_as_advanced(STARLING_GTEST_MAIN)
  target_link_libraries(ext_gtest INTERFACE ${STARLING_GTEST_MAIN} Threads::Threads)
  target_link_libraries(ext_gmock INTERFACE ext_gtest)
  target_link_libraries(ext_rapidcheck INTERFACE ext_gtest)
  target_link_libraries(ext_benchmark INTERFACE Threads::Threads)
endif()

find_program(STARLING_FLATC flatc)
mark_as_advanced(STARLING_FLATC)
if(NOT STARLING_FLATC)
  message(FATAL_ERROR "flatc was not found. Run launcher/setup.sh, which installs all that the build needs.")
endif()

# LibTorch, without its own find_package(Torch): that one demands a CUDA toolkit
# as soon as the library was built with CUDA. Linking c10 and torch_cpu is enough
# for a CPU; the CUDA part is loaded at run time where there is a GPU.
set(STARLING_TORCH_VERSION "none")
if(STARLING_WITH_TORCH)
  foreach(library c10 torch_cpu)
    if(NOT EXISTS "${STARLING_TORCH_DIR}/lib/lib${library}.so")
      message(FATAL_ERROR
        "LibTorch was expected in ${STARLING_TORCH_DIR}, but lib/lib${library}.so is not there. "
        "Run launcher/setup.sh, or name another LibTorch with -DSTARLING_TORCH_DIR=..., "
        "or build without it: -DSTARLING_WITH_TORCH=OFF.")
    endif()
    add_library(starling_${library} SHARED IMPORTED)
    set_target_properties(starling_${library} PROPERTIES
      IMPORTED_LOCATION "${STARLING_TORCH_DIR}/lib/lib${library}.so")
  endforeach()
  set_target_properties(starling_torch_cpu PROPERTIES
    INTERFACE_LINK_LIBRARIES starling_c10)
  add_library(starling_torch INTERFACE)
  # After the system's own folders: LibTorch brings copies of libraries (fmt) that
  # must not hide the ones we link.
  target_compile_options(starling_torch INTERFACE
    "SHELL:-idirafter ${STARLING_TORCH_DIR}/include"
    "SHELL:-idirafter ${STARLING_TORCH_DIR}/include/torch/csrc/api/include")
  # at::parallel_for is a loop unless its caller is compiled with OpenMP. It must be LibTorch's own copy of the run-time
  # library: with the system's there would be two sets of threads.
  file(GLOB STARLING_TORCH_GOMP "${STARLING_TORCH_DIR}/lib/libgomp*.so*")
  if(NOT STARLING_TORCH_GOMP)
    message(FATAL_ERROR
      "LibTorch was expected in ${STARLING_TORCH_DIR}, but lib/libgomp.so.1 is not there. Run launcher/setup.sh.")
  endif()
  add_library(starling_gomp SHARED IMPORTED)
  set_target_properties(starling_gomp PROPERTIES IMPORTED_LOCATION "${STARLING_TORCH_GOMP}")
  target_compile_options(starling_torch INTERFACE -fopenmp)
  target_link_libraries(starling_torch INTERFACE starling_torch_cpu starling_c10 starling_gomp)

  # Where the version is written moved in 2.9; the old place then includes the new.
  foreach(header torch/headeronly/version.h torch/csrc/api/include/torch/version.h)
    set(header "${STARLING_TORCH_DIR}/include/${header}")
    if(STARLING_TORCH_VERSION STREQUAL none AND EXISTS "${header}")
      file(STRINGS "${header}" line REGEX "^ *\"[0-9]+\\.[0-9]+")
      if(line MATCHES "\"([0-9]+\\.[0-9]+[^\"]*)\"")
        set(STARLING_TORCH_VERSION "${CMAKE_MATCH_1}")
      endif()
    endif()
  endforeach()
  if(NOT STARLING_TORCH_VERSION VERSION_GREATER_EQUAL 2.7)
    message(FATAL_ERROR
      "LibTorch 2.7 or newer was expected in ${STARLING_TORCH_DIR}; found version '${STARLING_TORCH_VERSION}'. "
      "Run launcher/setup.sh, or name another LibTorch with -DSTARLING_TORCH_DIR=....")
  endif()
endif()
