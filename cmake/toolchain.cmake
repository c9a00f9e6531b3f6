# The compiler and its flags: one place, for every target that is ours.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Release or Debug" FORCE)
endif()
# Release drops assert(), which is for what is too dear to check in production.
# STARLING_CHECK does not look at NDEBUG and stays.
set(CMAKE_CXX_FLAGS_RELEASE "-O2 -DNDEBUG")
set(CMAKE_CXX_FLAGS_DEBUG "-O0 -g")

# `-ffp-contract=off`: a fused multiply-add rounds once instead of twice, so
# without it the same seed would give other decisions on another machine or at
# another optimisation level.
add_compile_options(-ffp-contract=off)

# What UBSan's `null` and `object-size` find, ASan finds too, and they cost half of
# the compile time. Our libraries are what is under test: they get -O1, so that the
# simulated swarms stay fast; the tests' own sources, twice as much text, get -O0
# and no UBSan.
set(STARLING_SANITIZE_TESTS "")
if(STARLING_SANITIZE)
  add_compile_options(-fsanitize=${STARLING_SANITIZE} -fno-sanitize-recover=all
    -fno-omit-frame-pointer -O1 -g1)
  add_link_options(-fsanitize=${STARLING_SANITIZE})
  if(STARLING_SANITIZE MATCHES "undefined")
    add_compile_options(-fno-sanitize=null,object-size)
    set(STARLING_SANITIZE_TESTS -fno-sanitize=undefined)
  endif()
  list(APPEND STARLING_SANITIZE_TESTS -O0)
endif()

# Warnings are errors on our own code only; what comes from others is included
# as a system header. Designated initializers leave fields to their defaults on
# purpose. g++ 12 sees overlaps in std::string that cannot be (GCC bug 105651):
# -Wno-restrict.
set(STARLING_WARNINGS -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror -Wno-missing-field-initializers -Wno-restrict)
if(STARLING_SANITIZE)
  # Instrumented code makes g++ 12 see overruns that are not there; the release build judges warnings.
  list(REMOVE_ITEM STARLING_WARNINGS -Werror)
endif()

# Paths below the source tree count as relative, so that a second clone finds what the first one compiled.
find_program(STARLING_CCACHE ccache)
if(STARLING_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER env "CCACHE_BASEDIR=${CMAKE_SOURCE_DIR}" CCACHE_NOHASHDIR=1 "${STARLING_CCACHE}")
endif()
find_program(STARLING_MOLD mold)
if(STARLING_MOLD)
  add_link_options(-fuse-ld=mold)
endif()

# A file that includes LibTorch takes more than a gigabyte to compile: two at a
# time, however many jobs there are.
set_property(GLOBAL APPEND PROPERTY JOB_POOLS torch=2)
