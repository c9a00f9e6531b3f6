# How a folder says what it is:
#
#   starling_library(gossip_net SOURCES a.cc b.cc DEPS gossip_base ext_zmq)
#   starling_executable(starling SOURCES main.cc DEPS launcher [TORCH])
#   starling_test(router_test LABEL unit SOURCES router_test.cc DEPS pipeline
#                 [TORCH] [TIMEOUT seconds] [ARGS ...])
#   starling_bench(codec_bench SOURCES codec_bench.cc DEPS gossip_net [TORCH])
#   starling_flatbuffers(gossip_net wire.fbs)
#
# The layers, from left to right; a library may use what stands to its left and
# its own folder, and the configuration fails otherwise:
#
#   gossip_base <- metrics <- gossip_net <- gossip_membership <- gossip_outer
#     <- pipeline <- trainer_data <- trainer_worker <- trainer_checkpoint
#     <- trainer_torch <- launcher <- tests
#
# gossip_sim uses gossip_base, metrics and gossip_net; only the trainer, the
# launcher and tests use it. Only the launcher and tests use torch. A library belongs to the layer whose
# name it bears or begins with, as in trainer_worker_sim; libraries that support
# tests begin with test_. TORCH makes LibTorch's headers visible and is for
# trainer_torch and its tests; on a test elsewhere or on an executable it says
# that the target cannot be built without LibTorch, and no more.

# Left to right. Each may use itself and all before it; starling_may_use has the
# one exception.
set(STARLING_LAYERS
  gossip_base metrics gossip_net gossip_sim gossip_membership gossip_outer
  pipeline trainer_data trainer_worker trainer_checkpoint trainer_torch
  launcher test)

# The layer that a target belongs to, or "" when its name fits none.
function(starling_layer_of out target)
  set(${out} "" PARENT_SCOPE)
  foreach(layer IN LISTS STARLING_LAYERS)
    if(target STREQUAL layer OR target MATCHES "^${layer}_")
      set(${out} ${layer} PARENT_SCOPE)
      return()
    endif()
  endforeach()
endfunction()

# Whether a library of layer `user` may use one of layer `used`.
function(starling_may_use out user used)
  list(FIND STARLING_LAYERS ${user} user_rank)
  list(FIND STARLING_LAYERS ${used} used_rank)
  set(allowed FALSE)
  if(used_rank LESS_EQUAL user_rank)
    set(allowed TRUE)
  endif()
  if(used STREQUAL gossip_sim AND NOT user MATCHES "^(gossip_sim|trainer_worker|launcher|test)$")
    set(allowed FALSE)
  endif()
  set(${out} ${allowed} PARENT_SCOPE)
endfunction()

# Stops the configuration when `target` of `layer` names a dependency that it may
# not have.
function(starling_check_deps target layer)
  foreach(dep IN LISTS ARGN)
    if(dep MATCHES "^ext_")
      if(NOT TARGET ${dep})
        message(FATAL_ERROR "${target}: DEPS names ${dep}, which cmake/dependencies.cmake does not define.")
      endif()
      continue()
    endif()
    starling_layer_of(used "${dep}")
    if(NOT used)
      message(FATAL_ERROR
        "${target}: DEPS names ${dep}, which is neither an ext_ name nor a library of a layer. "
        "The layers are: ${STARLING_LAYERS}.")
    endif()
    starling_may_use(allowed ${layer} ${used})
    if(NOT allowed)
      message(FATAL_ERROR
        "${target}: DEPS names ${dep}, against the direction of the layers: "
        "${layer} may not use ${used}. The order is: ${STARLING_LAYERS}.")
    endif()
  endforeach()
endfunction()

# What every target of ours gets.
function(starling_common target)
  target_include_directories(${target} PUBLIC "${CMAKE_SOURCE_DIR}")
  target_compile_options(${target} PRIVATE ${STARLING_WARNINGS})
endfunction()

# Makes LibTorch's headers visible to `target` alone: who links it links LibTorch
# too, but does not see them.
function(starling_see_torch target)
  target_link_libraries(${target} PRIVATE starling_torch)
  set_target_properties(${target} PROPERTIES JOB_POOL_COMPILE torch)
endfunction()

function(starling_library name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "TORCH" "" "SOURCES;DEPS")
  starling_layer_of(layer ${name})
  if(NOT layer)
    message(FATAL_ERROR "${name}: a library's name says its layer, one of: ${STARLING_LAYERS}.")
  endif()
  if(arg_TORCH AND NOT layer MATCHES "^(trainer_torch|test)$")
    message(FATAL_ERROR "${name}: TORCH is for trainer/torch and its tests only.")
  endif()
  if(arg_TORCH AND NOT STARLING_WITH_TORCH)
    return()
  endif()
  starling_check_deps(${name} ${layer} ${arg_DEPS})
  set(headers_only TRUE)
  foreach(source IN LISTS arg_SOURCES)
    if(source MATCHES "\\.cc$")
      set(headers_only FALSE)
    endif()
  endforeach()
  if(headers_only)
    add_library(${name} INTERFACE)
    target_include_directories(${name} INTERFACE "${CMAKE_SOURCE_DIR}")
    target_link_libraries(${name} INTERFACE ${arg_DEPS})
    return()
  endif()
  add_library(${name} STATIC ${arg_SOURCES})
  starling_common(${name})
  target_link_libraries(${name} PUBLIC ${arg_DEPS})
  if(arg_TORCH)
    starling_see_torch(${name})
  endif()
endfunction()

# Executables lie at the top of the build tree: build/starling.
function(starling_executable name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "TORCH" "" "SOURCES;DEPS")
  if(arg_TORCH AND NOT STARLING_WITH_TORCH)
    return()
  endif()
  starling_check_deps(${name} launcher ${arg_DEPS})
  add_executable(${name} ${arg_SOURCES})
  starling_common(${name})
  target_link_libraries(${name} PRIVATE ${arg_DEPS})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}")
endfunction()

# Whether the folder that is being read holds tests of trainer/torch.
function(starling_sees_torch out)
  set(${out} FALSE PARENT_SCOPE)
  if(CMAKE_CURRENT_SOURCE_DIR MATCHES "/tests/trainer/torch(/|$)"
      OR CMAKE_CURRENT_SOURCE_DIR MATCHES "/tests/bench/trainer/torch(/|$)")
    set(${out} TRUE PARENT_SCOPE)
  endif()
endfunction()

set(STARLING_LABELS unit sim torch e2e bench soak)
set(STARLING_TIMEOUT_unit 60)
set(STARLING_TIMEOUT_sim 300)
set(STARLING_TIMEOUT_torch 300)
set(STARLING_TIMEOUT_e2e 600)
set(STARLING_TIMEOUT_bench 120)
set(STARLING_TIMEOUT_soak 7200)

# One binary is one ctest entry. Tests run in the build tree; the environment
# tells those that need it where the sources and the binary are.
function(starling_register_test name label timeout)
  add_test(NAME ${name} COMMAND ${name} ${ARGN})
  set_tests_properties(${name} PROPERTIES
    LABELS ${label} TIMEOUT ${timeout}
    ENVIRONMENT "STARLING_TEST_SOURCE_DIR=${CMAKE_SOURCE_DIR};STARLING_TEST_BINARY_DIR=${CMAKE_BINARY_DIR}"
    # promtool and prometheus, where launcher/setup.sh unpacks them.
    ENVIRONMENT_MODIFICATION "PATH=path_list_append:${CMAKE_SOURCE_DIR}/.deps/prometheus")
  if(label MATCHES "^(e2e|bench|soak)$")
    # They measure, or wait for real processes: not beside other tests.
    set_tests_properties(${name} PROPERTIES RUN_SERIAL TRUE)
  endif()
endfunction()

function(starling_test name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "TORCH" "LABEL;TIMEOUT" "SOURCES;DEPS;ARGS")
  if(NOT arg_LABEL IN_LIST STARLING_LABELS)
    message(FATAL_ERROR "${name}: LABEL is '${arg_LABEL}'; it must be one of: ${STARLING_LABELS}.")
  endif()
  if(arg_TORCH AND NOT STARLING_WITH_TORCH)
    return()
  endif()
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT ${STARLING_TIMEOUT_${arg_LABEL}})
  endif()
  starling_check_deps(${name} test ${arg_DEPS})
  add_executable(${name} ${arg_SOURCES})
  starling_common(${name})
  if(STARLING_SANITIZE_TESTS)
    target_compile_options(${name} PRIVATE ${STARLING_SANITIZE_TESTS})
  endif()
  target_link_libraries(${name} PRIVATE ${arg_DEPS} ext_gmock ext_rapidcheck ext_gtest)
  starling_sees_torch(sees_torch)
  if(arg_TORCH AND sees_torch)
    starling_see_torch(${name})
  endif()
  starling_register_test(${name} ${arg_LABEL} ${arg_TIMEOUT} ${arg_ARGS})
endfunction()

# A benchmark has its own main (BENCHMARK_MAIN()); ctest runs it for a moment
# only, as proof that it still works.
function(starling_bench name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "TORCH" "TIMEOUT" "SOURCES;DEPS")
  if(arg_TORCH AND NOT STARLING_WITH_TORCH)
    return()
  endif()
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT ${STARLING_TIMEOUT_bench})
  endif()
  starling_check_deps(${name} test ${arg_DEPS})
  add_executable(${name} ${arg_SOURCES})
  starling_common(${name})
  if(STARLING_SANITIZE_TESTS)
    target_compile_options(${name} PRIVATE ${STARLING_SANITIZE_TESTS})
  endif()
  target_link_libraries(${name} PRIVATE ${arg_DEPS} ext_benchmark)
  starling_sees_torch(sees_torch)
  if(arg_TORCH AND sees_torch)
    starling_see_torch(${name})
  endif()
  starling_register_test(${name} bench ${arg_TIMEOUT} --benchmark_min_time=0.01)
endfunction()

# Generates <name>_generated.h from <name>.fbs into the build tree, to be
# included by its path from the root: "gossip/net/wire_generated.h".
function(starling_flatbuffers target schema)
  cmake_path(RELATIVE_PATH CMAKE_CURRENT_SOURCE_DIR BASE_DIRECTORY "${CMAKE_SOURCE_DIR}"
    OUTPUT_VARIABLE folder)
  get_filename_component(stem ${schema} NAME_WE)
  set(out_dir "${CMAKE_BINARY_DIR}/generated/${folder}")
  set(header "${out_dir}/${stem}_generated.h")
  add_custom_command(
    OUTPUT "${header}"
    COMMAND ${STARLING_FLATC} --cpp --cpp-std c++17 --scoped-enums -o "${out_dir}"
            "${CMAKE_CURRENT_SOURCE_DIR}/${schema}"
    DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/${schema}"
    COMMENT "Generating ${folder}/${stem}_generated.h"
    VERBATIM)
  target_sources(${target} PRIVATE "${header}")
  # Generated code is not ours to keep free of warnings. Whoever links `target`
  # is compiled after it, so the header is there in time.
  target_include_directories(${target} SYSTEM PUBLIC "${CMAKE_BINARY_DIR}/generated")
  target_link_libraries(${target} PUBLIC ext_flatbuffers)
  add_custom_target(${target}_${stem}_generated DEPENDS "${header}")
  add_dependencies(${target} ${target}_${stem}_generated)
endfunction()

# Adds each folder that has a CMakeLists.txt.
function(starling_add_folders)
  foreach(folder IN LISTS ARGN)
    if(EXISTS "${CMAKE_CURRENT_SOURCE_DIR}/${folder}/CMakeLists.txt")
      add_subdirectory(${folder})
    endif()
  endforeach()
endfunction()
