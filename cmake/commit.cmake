# STARLING_COMMIT: the commit that is built, for starling_build_info. It is read
# again whenever HEAD moves; "unknown" outside a git checkout.
set(STARLING_COMMIT "unknown")
find_program(STARLING_GIT git)
mark_as_advanced(STARLING_GIT)
if(STARLING_GIT AND EXISTS "${CMAKE_SOURCE_DIR}/.git")
  execute_process(COMMAND "${STARLING_GIT}" -C "${CMAKE_SOURCE_DIR}" rev-parse --short=12 HEAD
    OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  if(commit)
    set(STARLING_COMMIT "${commit}")
  endif()
  if(EXISTS "${CMAKE_SOURCE_DIR}/.git/logs/HEAD")
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/.git/logs/HEAD")
  endif()
endif()
